//! TQ2_0: 256 weights, `d * (code - 1)`. Made for ternary models; code 3 is a level like the others.

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
    /// Each half for 128 weights: byte `m` holds weights `m`, `m + 32`, `m + 64`, `m + 96`, the first lowest.
    codes: [[u8; 32]; 2],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 66);

pub(super) struct Tq2_0;

type Levels = Integers<-1, 2>;

impl BlockFormat for Tq2_0 {
    const TYPE: GgmlType = GgmlType::TQ2_0;
    const GROUP: usize = 1;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (out, codes) in out.chunks_exact_mut(128).zip(&block.codes) {
            for (n, out) in out.iter_mut().enumerate() {
                *out = ((codes[n % 32] >> (n / 32 * 2) & 3) as i32 - 1) as f32 * d;
            }
        }
    }

    fn exact(values: &[f32], precision: Precision) -> Option<Block> {
        let anchors = [1.0, -1.0, 2.0].into_iter();
        let (d, codes) = scaled::<Levels, 256, _>(values, precision, anchors, halves(precision))?;
        let mut block = Block { d: write_f16(d), ..Block::zeroed() };
        Self::set_codes(&mut block, &codes);
        Some(block)
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let weights = ternary::Block::<16>::load(rows, first);
        let d = f16_bits(weights.scale::<Levels, 3, true>());
        let codes = weights.codes::<Levels>(f16_value(d));
        blocks[0].d = d.to_le_bytes();
        Self::set_codes(&mut blocks[0], codes.as_flattened());
    }
}

impl Scaled for Tq2_0 {
    const SUB: usize = 256;
    const SCALES: usize = 1;

    fn turn(block: &mut Block, _: usize, by: f32) -> f32 {
        turn_half(&mut block.d, by)
    }
}

impl Stepped for Tq2_0 {
    type Levels = Levels;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (read_f16(block.d), 0.0)
    }

    #[inline(always)]
    fn set_codes(block: &mut Block, codes: &[u8]) {
        for (bytes, codes) in block.codes.iter_mut().zip(codes.as_chunks::<128>().0) {
            for (m, byte) in bytes.iter_mut().enumerate() {
                *byte = codes[m] | codes[m + 32] << 2 | codes[m + 64] << 4 | codes[m + 96] << 6;
            }
        }
    }
}
