//! IQ2_S: 256 weights in 16 sub-blocks of 16, each of 2 codewords of 8 weights with free signs.

use pulp::{Scalar, Simd};

use super::GgmlType;
use super::codebook::book::{self, Book, Word};
use super::codebook::coder::{self, Signed, SignedCoder, signs};
use super::codebook::nearest::Ternary;
use super::codebook::scales::{Plan, search};
use super::codebook::signs::factor;
use super::codebook::{IQ2_LEVELS, grids, iq2_values};
use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, Rows, SubBlocks, read_f16, write_f16};
use super::recode::{Choice, Worded};
use super::refit::{Scaled, turn_bits, turn_half};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// Low bytes of the codewords.
    codewords: [u8; 32],
    signs: [u8; 32],
    /// Bits 8 and 9 of four codewords per byte.
    high: [u8; 8],
    /// 4 bits per sub-block.
    scales: [u8; 8],
}

const _: () = assert!(size_of::<Block>() == 82);

pub(super) struct Iq2S;

impl Signed for Iq2S {
    type Half = Ternary;
    const PARITY: usize = 0;

    fn book() -> &'static Book {
        &book::IQ2_S
    }

    #[inline(always)]
    fn values<S: Simd>(simd: S, levels: S::u32s) -> S::f32s {
        iq2_values(simd, levels)
    }
}

const PLAN: Plan = Plan { first: 0.2, ratio: 1.22, count: 6, alternations: 1, top: 31.0, window: 1, refits: 1 };

impl BlockFormat for Iq2S {
    const TYPE: GgmlType = GgmlType::IQ2_S;
    const GROUP: usize = LANES / 16;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (group, out) in out.chunks_exact_mut(8).enumerate() {
            let scale = block.scales[group / 4] >> (4 * (group / 2 % 2)) & 15;
            let step = d * (0.5 + scale as f32) * 0.25;
            let high = (block.high[group / 4] as usize) >> (2 * (group % 4)) & 3;
            let word = grids::IQ2_S[block.codewords[group] as usize | high << 8] as u32;
            let signs = block.signs[group] as u32;
            for (n, out) in out.iter_mut().enumerate() {
                *out = step * IQ2_LEVELS[(word >> (2 * n) & 3) as usize] * factor(signs, n);
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        Self::encode_with(Scalar, rows, first, blocks);
    }

    #[inline(always)]
    fn encode_with<S: Simd>(simd: S, rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<16>::load(rows, first * 16, 16);
        let mut coder = SignedCoder::<S, Self, 16, 2>::new(simd, &tile);
        let fit = search::<_, 16, 2>(&tile, &mut coder, 16, &PLAN);
        let block = &mut blocks[0];
        block.d = write_f16(fit.d[0]);
        (block.scales, block.high) = ([0; 8], [0; 8]);
        for lane in 0..16 {
            block.scales[lane / 2] |= (((fit.multiplier[lane] - 1.0) * 0.5) as u8) << (4 * (lane % 2));
            for half in 0..2 {
                let group = 2 * lane + half;
                let word = fit.words[half][lane];
                let number = Self::book().number(word);
                block.codewords[group] = number as u8;
                block.high[group / 4] |= ((number >> 8) as u8) << (2 * (group % 4));
                block.signs[group] = signs::<Self, 16>(&tile, lane, 8 * half, &[word]) as u8;
            }
        }
    }
}

impl Scaled for Iq2S {
    const SUB: usize = 16;
    const SCALES: usize = 17;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        match scale {
            0 => turn_half(&mut block.d, by),
            _ => turn_bits(&mut block.scales[(scale - 1) / 2], (4 * ((scale - 1) % 2), 4), by),
        }
    }
}

impl Worded for Iq2S {
    const UNIT: usize = 8;

    fn step(block: &Block, unit: usize) -> (f32, f32) {
        let scale = block.scales[unit / 4] >> (4 * (unit / 2 % 2)) & 15;
        (read_f16(block.d) * (2 * scale + 1) as f32, 0.0)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[Lanes; 8], w: &[f32; 8], step: &Lanes) -> Choice {
        coder::choose::<S, Self, 8, 1>(simd, x, w, step)
    }

    fn set_word(block: &mut Block, unit: usize, words: [Word; 2], signs: u32) {
        let number = Self::book().number(words[0]);
        block.codewords[unit] = number as u8;
        let kept = block.high[unit / 4] & !(3 << (2 * (unit % 4)));
        block.high[unit / 4] = kept | ((number >> 8) as u8) << (2 * (unit % 4));
        block.signs[unit] = signs as u8;
    }
}
