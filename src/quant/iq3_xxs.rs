//! IQ3_XXS: 256 weights in 8 sub-blocks of 32, each of 8 codewords of 4 weights; the signs of two have even parity.

use pulp::{Scalar, Simd};

use super::GgmlType;
use super::codebook::book::{self, Book, Word};
use super::codebook::coder::{self, Signed, SignedCoder, signs};
use super::codebook::nearest::Octal;
use super::codebook::scales::{Plan, search};
use super::codebook::signs::{expand, factor};
use super::codebook::{grids, odd_values};
use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, Rows, SubBlocks, read_f16, write_f16};
use super::recode::{Choice, Worded};
use super::refit::{Scaled, turn_bits, turn_half};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    codewords: [[u8; 8]; 8],
    /// Per sub-block seven signs of each pair of codewords from the lowest bit on, then 4 bits of scale.
    signs: [[u8; 4]; 8],
}

const _: () = assert!(size_of::<Block>() == 98);

const LEVELS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];

pub(super) struct Iq3Xxs;

impl Signed for Iq3Xxs {
    type Half = Octal;
    const PARITY: usize = 2;

    fn book() -> &'static Book {
        &book::IQ3_XXS
    }

    #[inline(always)]
    fn values<S: Simd>(simd: S, levels: S::u32s) -> S::f32s {
        let is_top = simd.equal_u32s(levels, simd.splat_u32s(7));
        simd.select_f32s(is_top, simd.splat_f32s(15.5), odd_values(simd, levels))
    }
}

const PLAN: Plan = Plan { first: 0.085, ratio: 1.11, count: 11, alternations: 1, top: 31.0, window: 2, refits: 1 };

impl BlockFormat for Iq3Xxs {
    const TYPE: GgmlType = GgmlType::IQ3_XXS;
    const GROUP: usize = LANES / 8;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let packed = u32::from_le_bytes(block.signs[b]);
            let step = d * (0.5 + (packed >> 28) as f32) * 0.5;
            for (group, out) in out.chunks_exact_mut(4).enumerate() {
                let word = grids::IQ3_XXS[block.codewords[b][group] as usize] as u32;
                let signs = expand(packed >> (7 * (group / 2))) >> (4 * (group % 2));
                for (n, out) in out.iter_mut().enumerate() {
                    *out = step * LEVELS[(word >> (3 * n) & 7) as usize] * factor(signs, n);
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
            for b in 0..8 {
                let lane = 8 * lanes + b;
                let mut packed = ((fit.multiplier[lane] - 1.0) * 0.5) as u32;
                for pair in (0..4).rev() {
                    let words = [fit.words[2 * pair][lane], fit.words[2 * pair + 1][lane]];
                    for (half, word) in words.into_iter().enumerate() {
                        block.codewords[b][2 * pair + half] = Self::book().number(word) as u8;
                    }
                    packed = packed << 7 | signs::<Self, 32>(&tile, lane, 8 * pair, &words) & 127;
                }
                block.signs[b] = packed.to_le_bytes();
            }
        }
    }
}

impl Scaled for Iq3Xxs {
    const SUB: usize = 32;
    const SCALES: usize = 9;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        match scale {
            0 => turn_half(&mut block.d, by),
            _ => turn_bits(&mut block.signs[scale - 1][3], (4, 4), by),
        }
    }
}

impl Worded for Iq3Xxs {
    const UNIT: usize = 8;

    fn step(block: &Block, unit: usize) -> (f32, f32) {
        let scale = block.signs[unit / 4][3] >> 4;
        (read_f16(block.d) * (2 * scale + 1) as f32, 0.0)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[Lanes; 8], w: &[f32; 8], step: &Lanes) -> Choice {
        coder::choose::<S, Self, 8, 2>(simd, x, w, step)
    }

    fn set_word(block: &mut Block, unit: usize, words: [Word; 2], signs: u32) {
        let (b, pair) = (unit / 4, unit % 4);
        for (half, word) in words.into_iter().enumerate() {
            block.codewords[b][2 * pair + half] = Self::book().number(word) as u8;
        }
        let kept = u32::from_le_bytes(block.signs[b]) & !(127 << (7 * pair));
        block.signs[b] = (kept | (signs & 127) << (7 * pair)).to_le_bytes();
    }
}
