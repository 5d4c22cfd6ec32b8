//! Q8_0: 32 weights, `d * code` with codes from -127 to 127.

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{
    LANES, Lanes, Rows, SubBlocks, ZERO, map, max, read_f16, reciprocal, round_even, round_f16, sanitize,
    small_integer, write_f16,
};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half};
use super::search::{Grid, Integers, Levels as _, range};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    codes: [u8; 32],
}

const _: () = assert!(size_of::<Block>() == 34);

pub(super) struct Q8_0;

type Levels = Integers<-127, 127>;
/// Codes of the largest magnitude. The error is nearly flat here, so each trial is another draw of the rounding noise.
/// Whole codes, so that a decoded block is found again exactly.
const ANCHORS: Grid = Grid { first: 127.0, step: -1.0, count: 10 };

impl BlockFormat for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const GROUP: usize = LANES;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (out, code) in out.iter_mut().zip(block.codes) {
            *out = (code as i8) as f32 * d;
        }
    }

    fn exact(values: &[f32], precision: super::lossless::Precision) -> Option<Block> {
        let (levels, scales) = (super::lossless::integers(-127, 127), super::lossless::halves(precision));
        let (d, codes) = super::lossless::scaled::<Levels, 32, _>(values, precision, levels, scales)?;
        Some(Block { d: write_f16(d), codes: codes.map(|code| code.wrapping_sub(127)) })
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first, 1);
        let (low, high) = range(&tile.x);
        let largest = map(|i| max(high[i], -low[i]));
        let (mut best, mut error) = (ZERO, [f32::INFINITY; LANES]);
        for t in 0..ANCHORS.count {
            let anchor = ANCHORS.at(t);
            let scale = map(|i| round_f16(largest[i] / anchor));
            let trial = unclamped_error(&tile, &scale, &largest);
            for i in 0..LANES {
                let better = trial[i] < error[i];
                best[i] = if better { scale[i] } else { best[i] };
                error[i] = if better { trial[i] } else { error[i] };
            }
        }
        for (i, block) in blocks.iter_mut().enumerate() {
            // from the weights as they lie in memory, which vectorizes
            let values: &[f32; 32] = &rows.values[(first + i) * 32..].as_chunks().0[0];
            let inverse = reciprocal(best[i]);
            block.d = write_f16(best[i]);
            for (code, x) in block.codes.iter_mut().zip(values) {
                *code = small_integer(Levels::nearest(sanitize(*x) * inverse));
            }
        }
    }
}

/// True error of the codes nearest to `x / scale`, none for scales that make codes beyond the last.
#[inline(always)]
fn unclamped_error(tile: &SubBlocks<32>, scale: &Lanes, largest: &Lanes) -> Lanes {
    let inverse = map(|i| reciprocal(scale[i]));
    let mut error = ZERO;
    for (x, w) in tile.x.iter().zip(&tile.w) {
        for i in 0..LANES {
            let miss = round_even(x[i] * inverse[i]) * scale[i] - x[i];
            error[i] += w[i] * miss * miss;
        }
    }
    map(|i| if largest[i] * inverse[i] < 127.5 { error[i] } else { f32::MAX })
}

impl Scaled for Q8_0 {
    const SUB: usize = 32;
    const SCALES: usize = 1;

    fn turn(block: &mut Block, _: usize, by: f32) -> f32 {
        turn_half(&mut block.d, by)
    }
}

impl Stepped for Q8_0 {
    type Levels = Levels;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (read_f16(block.d), 0.0)
    }

    fn set_codes(block: &mut Block, codes: &[u8]) {
        block.codes = std::array::from_fn(|n| codes[n].wrapping_sub(127));
    }
}
