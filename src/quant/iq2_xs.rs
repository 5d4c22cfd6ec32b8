//! IQ2_XS: 256 weights in 16 sub-blocks of 16, each of 2 codewords of 8 weights whose signs have even parity.

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
    /// 9 bits of codeword, then 7 signs.
    codewords: [[u8; 2]; 32],
    /// 4 bits per sub-block.
    scales: [u8; 8],
}

const _: () = assert!(size_of::<Block>() == 74);

pub(super) struct Iq2Xs;

impl Signed for Iq2Xs {
    type Half = Ternary;
    const PARITY: usize = 1;

    fn book() -> &'static Book {
        &book::IQ2_XS
    }

    #[inline(always)]
    fn values<S: Simd>(simd: S, levels: S::u32s) -> S::f32s {
        iq2_values(simd, levels)
    }
}

const PLAN: Plan = Plan { first: 0.2, ratio: 1.22, count: 6, alternations: 1, top: 31.0, window: 1, refits: 1 };

impl BlockFormat for Iq2Xs {
    const TYPE: GgmlType = GgmlType::IQ2_XS;
    const GROUP: usize = LANES / 16;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (group, out) in out.chunks_exact_mut(8).enumerate() {
            let scale = block.scales[group / 4] >> (4 * (group / 2 % 2)) & 15;
            let step = d * (0.5 + scale as f32) * 0.25;
            let packed = u16::from_le_bytes(block.codewords[group]) as u32;
            let word = grids::IQ2_XS[(packed & 511) as usize] as u32;
            let signs = expand(packed >> 9);
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
        block.scales = [0; 8];
        for lane in 0..16 {
            block.scales[lane / 2] |= (((fit.multiplier[lane] - 1.0) * 0.5) as u8) << (4 * (lane % 2));
            for group in 0..2 {
                let word = fit.words[group][lane];
                let signs = signs::<Self, 16>(&tile, lane, 8 * group, &[word]) & 127;
                block.codewords[2 * lane + group] = (Self::book().number(word) | (signs << 9) as u16).to_le_bytes();
            }
        }
    }
}

impl Scaled for Iq2Xs {
    const SUB: usize = 16;
    const SCALES: usize = 17;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        match scale {
            0 => turn_half(&mut block.d, by),
            _ => turn_bits(&mut block.scales[(scale - 1) / 2], (4 * ((scale - 1) % 2), 4), by),
        }
    }
}

impl Worded for Iq2Xs {
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
        block.codewords[unit] = (Self::book().number(words[0]) | ((signs & 127) << 9) as u16).to_le_bytes();
    }
}
