//! Q5_1: 32 weights, `d * code + m`.

use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, read_f16, write_f16};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half};
use super::search::{AffineFit, Grid, Integers, Moments, affine_codes, range, round_affine};
use super::{GgmlType, nibbles};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    m: [u8; 2],
    /// The fifth bits, weight `j` in bit `j`.
    high: [u8; 4],
    codes: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 24);

pub(super) struct Q5_1;

/// Largest code.
const TOP: f32 = 31.0;
/// See [`AffineFit::try_spreads`].
const SPREADS: Grid = Grid { first: -3.0, step: 1.0, count: 6 };
const SHIFTS: Grid = Grid { first: -0.5, step: 0.25, count: 10 };

impl BlockFormat for Q5_1 {
    const TYPE: GgmlType = GgmlType::Q5_1;
    const GROUP: usize = LANES;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let (d, m) = (read_f16(block.d), read_f16(block.m));
        for (out, code) in out.iter_mut().zip(nibbles::unpack_five(&block.codes, block.high)) {
            *out = code as f32 * d + m;
        }
    }

    fn exact(values: &[f32], precision: super::lossless::Precision) -> Option<Block> {
        let (d, m, codes) = super::lossless::affine::<32>(values, precision, TOP)?;
        let (high, codes) = (nibbles::pack_high(&codes), nibbles::pack(&codes));
        Some(Block { d: write_f16(d), m: write_f16(m), high, codes })
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first, 1);
        let moments = Moments::of(&tile);
        let (low, high) = range(&tile.x);
        let mut fit = AffineFit::NONE;
        fit.try_spreads::<false, 32>(&tile, &moments, (&low, &high), TOP, (SPREADS, SHIFTS));
        fit.alternate::<false, 32>(&tile, &moments, TOP, 1);
        let (d, m) = round_affine(&tile, &moments, &fit, TOP);
        let codes = affine_codes::<32>(&tile, &d, &m, TOP);
        for (i, block) in blocks.iter_mut().enumerate() {
            *block = Block {
                d: write_f16(d[i]),
                m: write_f16(m[i]),
                high: nibbles::pack_high(&codes[i]),
                codes: nibbles::pack(&codes[i]),
            };
        }
    }
}

impl Scaled for Q5_1 {
    const SUB: usize = 32;
    const SCALES: usize = 2;
    const WHOLE: usize = 2;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        turn_half(if scale == 0 { &mut block.d } else { &mut block.m }, by)
    }
}

impl Stepped for Q5_1 {
    type Levels = Integers<0, 31>;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (read_f16(block.d), read_f16(block.m))
    }

    fn set_codes(block: &mut Block, codes: &[u8]) {
        block.high = nibbles::pack_high(codes);
        block.codes = nibbles::pack(codes);
    }
}
