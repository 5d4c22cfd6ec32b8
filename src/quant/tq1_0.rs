//! TQ1_0: 256 ternary weights, five in a byte, and a scale.

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
    /// Three runs of 32, 16 and 4 bytes; digit `n` of byte `m` of a run is weight `n * length + m` of its part of the block.
    /// The last run has four digits per byte.
    digits: [[u8; 4]; 13],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 54);

pub(super) struct Tq1_0;

type Levels = Integers<-1, 1>;

/// First weight, first byte, bytes and digits per byte of each run.
const RUNS: [(usize, usize, usize, usize); 3] = [(0, 0, 32, 5), (160, 32, 16, 5), (240, 48, 4, 4)];
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

impl BlockFormat for Tq1_0 {
    const TYPE: GgmlType = GgmlType::TQ1_0;
    const GROUP: usize = 1;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        let bytes = block.digits.as_flattened();
        for (first, start, length, digits) in RUNS {
            for n in 0..digits {
                for m in 0..length {
                    // a byte is a fraction of 256 whose base 3 digits are the codes
                    let rest = bytes[start + m].wrapping_mul(POWERS[n]);
                    let code = (rest as u16 * 3) >> 8;
                    out[first + n * length + m] = (code as i32 - 1) as f32 * d;
                }
            }
        }
    }

    fn exact(values: &[f32], precision: Precision) -> Option<Block> {
        let anchors = [1.0, -1.0].into_iter();
        let (d, codes) = scaled::<Levels, 256, _>(values, precision, anchors, halves(precision))?;
        let mut block = Block { d: write_f16(d), ..Block::zeroed() };
        Self::set_codes(&mut block, &codes);
        Some(block)
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let weights = ternary::Block::<16>::load(rows, first);
        let d = f16_bits(weights.scale::<Levels, 3, false>());
        let codes = weights.codes::<Levels>(f16_value(d));
        blocks[0].d = d.to_le_bytes();
        Self::set_codes(&mut blocks[0], codes.as_flattened());
    }
}

impl Scaled for Tq1_0 {
    const SUB: usize = 256;
    const SCALES: usize = 1;

    fn turn(block: &mut Block, _: usize, by: f32) -> f32 {
        turn_half(&mut block.d, by)
    }
}

impl Stepped for Tq1_0 {
    type Levels = Levels;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (read_f16(block.d), 0.0)
    }

    #[inline(always)]
    fn set_codes(block: &mut Block, codes: &[u8]) {
        for (first, start, length, digits) in RUNS {
            for m in 0..length {
                let mut number = 0u16;
                for n in 0..5 {
                    number = 3 * number + if n < digits { codes[first + n * length + m] as u16 } else { 0 };
                }
                // the smallest fraction of 256 that is at least number / 243
                block.digits.as_flattened_mut()[start + m] = (number * 256).div_ceil(243) as u8;
            }
        }
    }
}
