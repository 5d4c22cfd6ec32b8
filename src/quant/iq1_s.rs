//! IQ1_S: 256 weights in 8 sub-blocks of 32, each of 4 ternary codewords of 8 weights that are all moved the same way.

use pulp::{Scalar, Simd};

use super::GgmlType;
use super::codebook::book::Word;
use super::codebook::grids;
use super::codebook::scales::{Plan, search};
use super::codebook::shifted::{self, SHIFT, ShiftedCoder, is_down};
use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, Rows, SubBlocks, read_f16, write_f16};
use super::recode::{Choice, Worded};
use super::refit::{Scaled, turn_bits, turn_half};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// Low bytes of the codewords.
    codewords: [[u8; 4]; 8],
    /// Per sub-block 3 high bits of each codeword, 3 bits of scale, and whether the codewords are moved down.
    high: [[u8; 2]; 8],
}

const _: () = assert!(size_of::<Block>() == 50);

pub(super) struct Iq1S;

const PLAN: Plan = Plan { first: 0.9, ratio: 1.4, count: 3, alternations: 1, top: 15.0, window: 0, refits: 0 };

impl BlockFormat for Iq1S {
    const TYPE: GgmlType = GgmlType::IQ1_S;
    const GROUP: usize = LANES / 8;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let high = u16::from_le_bytes(block.high[b]) as usize;
            let step = d * (2 * (high >> 12 & 7) + 1) as f32;
            let shift = if high >> 15 == 1 { -SHIFT } else { SHIFT };
            for (group, out) in out.chunks_exact_mut(8).enumerate() {
                let number = block.codewords[b][group] as usize | (high >> (3 * group) & 7) << 8;
                let word = grids::IQ1_S[number] as u32;
                for (n, out) in out.iter_mut().enumerate() {
                    *out = step * ((word >> (2 * n) & 3) as f32 - 1.0 + shift);
                }
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        Self::encode_with(Scalar, rows, first, blocks);
    }

    #[inline(always)]
    fn encode_with<S: Simd>(simd: S, rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first * 8, 8);
        let mut coder = ShiftedCoder::<S, 32, 4, true>::new(simd, &tile);
        let fit = search::<_, 32, 4>(&tile, &mut coder, 8, &PLAN);
        for (lanes, block) in blocks.iter_mut().enumerate() {
            block.d = write_f16(fit.d[8 * lanes]);
            for b in 0..8 {
                let lane = 8 * lanes + b;
                let mut high = (((fit.multiplier[lane] - 1.0) * 0.5) as u16) << 12;
                high |= (is_down(fit.words[0][lane]) as u16) << 15;
                for group in 0..4 {
                    let number = shifted::number(fit.words[group][lane]);
                    block.codewords[b][group] = number as u8;
                    high |= (number >> 8) << (3 * group);
                }
                block.high[b] = high.to_le_bytes();
            }
        }
    }
}

impl Scaled for Iq1S {
    const SUB: usize = 32;
    const SCALES: usize = 9;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        match scale {
            0 => turn_half(&mut block.d, by),
            _ => turn_bits(&mut block.high[scale - 1][1], (4, 3), by),
        }
    }
}

impl Worded for Iq1S {
    const UNIT: usize = 8;

    fn step(block: &Block, unit: usize) -> (f32, f32) {
        let high = u16::from_le_bytes(block.high[unit / 4]);
        let step = read_f16(block.d) * (2 * (high >> 12 & 7) + 1) as f32;
        // all words of a sub-block keep the shift that was found with its scale
        (step, if high >> 15 == 1 { -SHIFT * step } else { SHIFT * step })
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[Lanes; 8], w: &[f32; 8], step: &Lanes) -> Choice {
        shifted::choose(simd, x, w, step, Some(0.0))
    }

    fn set_word(block: &mut Block, unit: usize, words: [Word; 2], _: u32) {
        let (b, group) = (unit / 4, unit % 4);
        let number = shifted::number(words[0]);
        block.codewords[b][group] = number as u8;
        let kept = u16::from_le_bytes(block.high[b]) & !(7 << (3 * group));
        block.high[b] = (kept | (number >> 8) << (3 * group)).to_le_bytes();
    }
}
