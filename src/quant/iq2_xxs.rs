//! IQ2_XXS: 256 weights in 8 sub-blocks of 32, each of 4 codewords of 8 weights whose signs have even parity.

use pulp::{Scalar, Simd};

use super::GgmlType;
use super::codebook::book::{self, Book, Word};
use super::codebook::coder::{self, Signed, SignedCoder, signs};
use super::codebook::nearest::Ternary;
use super::codebook::scales::{Plan, search};
use super::codebook::signs::{expand, factor};
use super::codebook::{IQ2_LEVELS, grids, iq2_values};
use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, Rows, SubBlocks, read_f16, write_f16};
use super::recode::{Choice, Worded};
use super::refit::{Scaled, turn_bits, turn_half};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    sub_blocks: [SubBlock; 8],
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SubBlock {
    codewords: [u8; 4],
    /// Seven signs of each codeword from the lowest bit on, then 4 bits of scale.
    signs: [u8; 4],
}

const _: () = assert!(size_of::<Block>() == 66);

pub(super) struct Iq2Xxs;

impl Signed for Iq2Xxs {
    type Half = Ternary;
    const PARITY: usize = 1;

    fn book() -> &'static Book {
        &book::IQ2_XXS
    }

    #[inline(always)]
    fn values<S: Simd>(simd: S, levels: S::u32s) -> S::f32s {
        iq2_values(simd, levels)
    }
}

const PLAN: Plan = Plan { first: 0.2, ratio: 1.22, count: 6, alternations: 1, top: 31.0, window: 1, refits: 1 };

impl BlockFormat for Iq2Xxs {
    const TYPE: GgmlType = GgmlType::IQ2_XXS;
    const GROUP: usize = LANES / 8;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (sub, out) in block.sub_blocks.iter().zip(out.chunks_exact_mut(32)) {
            let packed = u32::from_le_bytes(sub.signs);
            let step = d * (0.5 + (packed >> 28) as f32) * 0.25;
            for (group, out) in out.chunks_exact_mut(8).enumerate() {
                let word = grids::IQ2_XXS[sub.codewords[group] as usize] as u32;
                let signs = expand(packed >> (7 * group));
                for (n, out) in out.iter_mut().enumerate() {
                    *out = step * IQ2_LEVELS[(word >> (2 * n) & 3) as usize] * factor(signs, n);
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
        let mut coder = SignedCoder::<S, Self, 32, 4>::new(simd, &tile);
        let fit = search::<_, 32, 4>(&tile, &mut coder, 8, &PLAN);
        for (lanes, block) in blocks.iter_mut().enumerate() {
            block.d = write_f16(fit.d[8 * lanes]);
            for (b, sub) in block.sub_blocks.iter_mut().enumerate() {
                let lane = 8 * lanes + b;
                let mut packed = ((fit.multiplier[lane] - 1.0) * 0.5) as u32;
                for group in (0..4).rev() {
                    let word = fit.words[group][lane];
                    sub.codewords[group] = Self::book().number(word) as u8;
                    packed = packed << 7 | signs::<Self, 32>(&tile, lane, 8 * group, &[word]) & 127;
                }
                sub.signs = packed.to_le_bytes();
            }
        }
    }
}

impl Scaled for Iq2Xxs {
    const SUB: usize = 32;
    const SCALES: usize = 9;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        match scale {
            0 => turn_half(&mut block.d, by),
            _ => turn_bits(&mut block.sub_blocks[scale - 1].signs[3], (4, 4), by),
        }
    }
}

impl Worded for Iq2Xxs {
    const UNIT: usize = 8;

    fn step(block: &Block, unit: usize) -> (f32, f32) {
        let scale = block.sub_blocks[unit / 4].signs[3] >> 4;
        (read_f16(block.d) * (2 * scale + 1) as f32, 0.0)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[Lanes; 8], w: &[f32; 8], step: &Lanes) -> Choice {
        coder::choose::<S, Self, 8, 1>(simd, x, w, step)
    }

    fn set_word(block: &mut Block, unit: usize, words: [Word; 2], signs: u32) {
        let (sub, group) = (&mut block.sub_blocks[unit / 4], unit % 4);
        sub.codewords[group] = Self::book().number(words[0]) as u8;
        let kept = u32::from_le_bytes(sub.signs) & !(127 << (7 * group));
        sub.signs = (kept | (signs & 127) << (7 * group)).to_le_bytes();
    }
}
