//! Q1_0: 128 weights, plus or minus `d`. Builds of llama.cpp older than the type reject it.

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, ZERO, read_f16, write_f16};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half};
use super::search::Levels;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// A set bit for plus, the first weight lowest.
    signs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 18);

pub(super) struct Q1_0;

impl BlockFormat for Q1_0 {
    const TYPE: GgmlType = GgmlType::Q1_0;
    const GROUP: usize = LANES;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (n, out) in out.iter_mut().enumerate() {
            *out = if block.signs[n / 8] >> (n % 8) & 1 == 1 { d } else { -d };
        }
    }

    /// The signs of the weights and their weighted mean magnitude are the optimum.
    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<128>::load(rows, first, 1);
        let (mut sum, mut weight) = (ZERO, ZERO);
        for n in 0..128 {
            for i in 0..LANES {
                sum[i] += tile.w[n][i] * tile.x[n][i].abs();
                weight[i] += tile.w[n][i];
            }
        }
        for (i, block) in blocks.iter_mut().enumerate() {
            *block = Block { d: write_f16(sum[i] / weight[i]), signs: [0; 16] };
            for n in 0..128 {
                block.signs[n / 8] |= ((tile.x[n][i] >= 0.0) as u8) << (n % 8);
            }
        }
    }
}

/// Minus and plus one.
pub(super) struct Signs;

impl Levels for Signs {
    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        if y >= 0.0 { 1.0 } else { -1.0 }
    }

    #[inline(always)]
    fn code(y: f32) -> u8 {
        u8::from(y >= 0.0)
    }
}

impl Scaled for Q1_0 {
    const SUB: usize = 128;
    const SCALES: usize = 1;

    fn turn(block: &mut Block, _: usize, by: f32) -> f32 {
        turn_half(&mut block.d, by)
    }
}

impl Stepped for Q1_0 {
    type Levels = Signs;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (read_f16(block.d), 0.0)
    }

    fn set_codes(block: &mut Block, codes: &[u8]) {
        for (byte, codes) in block.signs.iter_mut().zip(codes.as_chunks::<8>().0) {
            *byte = (0..8).fold(0, |bits, n| bits | codes[n] << n);
        }
    }
}
