//! IQ3_S: 256 weights in 8 sub-blocks of 32, each of 8 codewords of 4 weights with free signs.

use pulp::{Scalar, Simd};

use super::GgmlType;
use super::codebook::book::{self, Book, Word};
use super::codebook::coder::{self, Signed, SignedCoder, signs};
use super::codebook::nearest::Octal;
use super::codebook::scales::{Plan, search};
use super::codebook::signs::factor;
use super::codebook::{grids, odd_values};
use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, Rows, SubBlocks, read_f16, write_f16};
use super::recode::{Choice, Worded};
use super::refit::{Scaled, turn_bits, turn_half};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// Low bytes of the codewords.
    codewords: [[u8; 8]; 8],
    /// Bit 8 of the codewords of a sub-block.
    high: [u8; 8],
    /// Each byte for two codewords.
    signs: [[u8; 4]; 8],
    /// 4 bits per sub-block.
    scales: [u8; 4],
}

const _: () = assert!(size_of::<Block>() == 110);

pub(super) struct Iq3S;

impl Signed for Iq3S {
    type Half = Octal;
    const PARITY: usize = 0;

    fn book() -> &'static Book {
        &book::IQ3_S
    }

    #[inline(always)]
    fn values<S: Simd>(simd: S, levels: S::u32s) -> S::f32s {
        odd_values(simd, levels)
    }
}

const PLAN: Plan = Plan { first: 0.085, ratio: 1.11, count: 11, alternations: 1, top: 31.0, window: 2, refits: 1 };

impl BlockFormat for Iq3S {
    const TYPE: GgmlType = GgmlType::IQ3_S;
    const GROUP: usize = LANES / 8;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let scale = block.scales[b / 2] >> (4 * (b % 2)) & 15;
            let step = d * (1 + 2 * scale) as f32;
            for (group, out) in out.chunks_exact_mut(4).enumerate() {
                let high = (block.high[b] as usize) >> group & 1;
                let word = grids::IQ3_S[block.codewords[b][group] as usize | high << 8] as u32;
                let signs = (block.signs[b][group / 2] >> (4 * (group % 2))) as u32;
                for (n, out) in out.iter_mut().enumerate() {
                    *out = step * (2 * (word >> (3 * n) & 7) + 1) as f32 * factor(signs, n);
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
        let mut coder = SignedCoder::<S, Self, 32, 8>::new(simd, &tile);
        let fit = search::<_, 32, 8>(&tile, &mut coder, 8, &PLAN);
        for (lanes, block) in blocks.iter_mut().enumerate() {
            block.d = write_f16(fit.d[8 * lanes]);
            (block.scales, block.high) = ([0; 4], [0; 8]);
            for b in 0..8 {
                let lane = 8 * lanes + b;
                block.scales[b / 2] |= (((fit.multiplier[lane] - 1.0) * 0.5) as u8) << (4 * (b % 2));
                for pair in 0..4 {
                    let words = [fit.words[2 * pair][lane], fit.words[2 * pair + 1][lane]];
                    for (half, word) in words.into_iter().enumerate() {
                        let (group, number) = (2 * pair + half, Self::book().number(word));
                        block.codewords[b][group] = number as u8;
                        block.high[b] |= ((number >> 8) as u8) << group;
                    }
                    block.signs[b][pair] = signs::<Self, 32>(&tile, lane, 8 * pair, &words) as u8;
                }
            }
        }
    }
}

impl Scaled for Iq3S {
    const SUB: usize = 32;
    const SCALES: usize = 9;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        match scale {
            0 => turn_half(&mut block.d, by),
            _ => turn_bits(&mut block.scales[(scale - 1) / 2], (4 * ((scale - 1) % 2), 4), by),
        }
    }
}

impl Worded for Iq3S {
    const UNIT: usize = 4;

    fn step(block: &Block, unit: usize) -> (f32, f32) {
        let scale = block.scales[unit / 16] >> (4 * (unit / 8 % 2)) & 15;
        (read_f16(block.d) * (2 * scale + 1) as f32, 0.0)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[Lanes; 8], w: &[f32; 8], step: &Lanes) -> Choice {
        coder::choose::<S, Self, 4, 1>(simd, x, w, step)
    }

    fn set_word(block: &mut Block, unit: usize, words: [Word; 2], signs: u32) {
        let (b, group) = (unit / 8, unit % 8);
        let number = Self::book().number(words[0]);
        block.codewords[b][group] = number as u8;
        block.high[b] = block.high[b] & !(1 << group) | ((number >> 8) as u8) << group;
        let shift = 4 * (group % 2);
        block.signs[b][group / 2] = block.signs[b][group / 2] & !(15 << shift) | (signs as u8) << shift;
    }
}
