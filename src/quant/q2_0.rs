//! Q2_0: 64 weights, `d * (code - 1)`. Builds of llama.cpp older than the type reject it.

use bytemuck::Zeroable;

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{Rows, f16_bits, f16_value, read_f16, write_f16};
use super::lossless::{Precision, halves, scaled};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half};
use super::search::Integers;
use super::ternary;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// Four weights in a byte, the first lowest.
    codes: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 18);

pub(super) struct Q2_0;

type Levels = Integers<-1, 2>;

impl BlockFormat for Q2_0 {
    const TYPE: GgmlType = GgmlType::Q2_0;
    const GROUP: usize = 1;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (n, out) in out.iter_mut().enumerate() {
            *out = ((block.codes[n / 4] >> (n % 4 * 2) & 3) as i32 - 1) as f32 * d;
        }
    }

    fn exact(values: &[f32], precision: Precision) -> Option<Block> {
        let anchors = [1.0, -1.0, 2.0].into_iter();
        let (d, codes) = scaled::<Levels, 64, _>(values, precision, anchors, halves(precision))?;
        let mut block = Block { d: write_f16(d), ..Block::zeroed() };
        Self::set_codes(&mut block, &codes);
        Some(block)
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let weights = ternary::Block::<4>::load(rows, first);
        let d = f16_bits(weights.scale::<Levels, 2, true>());
        let codes = weights.codes::<Levels>(f16_value(d));
        blocks[0].d = d.to_le_bytes();
        Self::set_codes(&mut blocks[0], codes.as_flattened());
    }
}

impl Scaled for Q2_0 {
    const SUB: usize = 64;
    const SCALES: usize = 1;

    fn turn(block: &mut Block, _: usize, by: f32) -> f32 {
        turn_half(&mut block.d, by)
    }
}

impl Stepped for Q2_0 {
    type Levels = Levels;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (read_f16(block.d), 0.0)
    }

    #[inline(always)]
    fn set_codes(block: &mut Block, codes: &[u8]) {
        for (byte, codes) in block.codes.iter_mut().zip(codes.as_chunks::<4>().0) {
            let four = u32::from_le_bytes(*codes);
            *byte = (four | four >> 6 | four >> 12 | four >> 18) as u8;
        }
    }
}
