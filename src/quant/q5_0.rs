//! Q5_0: 32 weights, `d * (code - 16)`.

use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, map, read_f16, round_f16, write_f16};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half};
use super::search::{Grid, Integers, ScaleFit, extremes, level_codes};
use super::{GgmlType, nibbles};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// The fifth bits, weight `j` in bit `j`.
    high: [u8; 4],
    codes: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 22);

pub(super) struct Q5_0;

type Levels = Integers<-16, 15>;
/// Levels to which the extreme weight is sent, far beyond the last one in case it matters little.
const FRONT: Grid = Grid { first: -32.0, step: 0.8, count: 29 };
const BACK: Grid = Grid { first: 30.0, step: -0.75, count: 29 };

impl BlockFormat for Q5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;
    const GROUP: usize = LANES;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (out, code) in out.iter_mut().zip(nibbles::unpack_five(&block.codes, block.high)) {
            *out = (code as i32 - 16) as f32 * d;
        }
    }

    fn exact(values: &[f32], precision: super::lossless::Precision) -> Option<Block> {
        let (levels, scales) = (super::lossless::integers(-16, 15), super::lossless::halves(precision));
        let (d, codes) = super::lossless::scaled::<Levels, 32, _>(values, precision, levels, scales)?;
        Some(Block { d: write_f16(d), high: nibbles::pack_high(&codes), codes: nibbles::pack(&codes) })
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first, 1);
        let extreme = extremes(&tile.x);
        let mut fit = ScaleFit::NONE;
        fit.try_anchors::<Levels, 32>(&tile, &extreme, FRONT);
        fit.try_anchors::<Levels, 32>(&tile, &extreme, BACK);
        fit.alternate::<Levels, 32>(&tile, 1);
        let codes = level_codes::<Levels, 32>(&tile, &map(|i| round_f16(fit.scale[i])));
        for (i, block) in blocks.iter_mut().enumerate() {
            *block = Block {
                d: write_f16(fit.scale[i]),
                high: nibbles::pack_high(&codes[i]),
                codes: nibbles::pack(&codes[i]),
            };
        }
    }
}

impl Scaled for Q5_0 {
    const SUB: usize = 32;
    const SCALES: usize = 1;

    fn turn(block: &mut Block, _: usize, by: f32) -> f32 {
        turn_half(&mut block.d, by)
    }
}

impl Stepped for Q5_0 {
    type Levels = Levels;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (read_f16(block.d), 0.0)
    }

    fn set_codes(block: &mut Block, codes: &[u8]) {
        block.high = nibbles::pack_high(codes);
        block.codes = nibbles::pack(codes);
    }
}
