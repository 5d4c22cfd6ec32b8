//! IQ2_XXS: 256 weights in 8 sub-blocks of 32, each of 4 codewords of 8 weights whose signs have even parity.

use super::GgmlType;
use super::codebook::book::{self, Book, Half, Ternary};
use super::codebook::coder::{Signed, SignedCoder, signs};
use super::codebook::scales::{Plan, search};
use super::codebook::signs::{expand, factor};
use super::codebook::{IQ2_LEVELS, grids, iq2_value};
use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, read_f16, write_f16};

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
    fn value(level: u32) -> f32 {
        iq2_value(level)
    }
}

const PLAN: Plan = Plan { first: 0.18, ratio: 1.14, count: 9, alternations: 2, top: 31.0, window: 1, refits: 2 };

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
                    *out = step * IQ2_LEVELS[Ternary::level(word, n) as usize] * factor(signs, n);
                }
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first * 8, 8);
        let fit = search::<_, 32, 4>(&tile, &SignedCoder::<Self, 32, 4>::new(&tile), 8, &PLAN);
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
