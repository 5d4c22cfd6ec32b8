//! IQ1_M: 256 weights in 16 sub-blocks of 16, each of 2 ternary codewords of 8 weights, each moved either way.

use pulp::{Scalar, Simd};

use super::GgmlType;
use super::codebook::book::Word;
use super::codebook::grids;
use super::codebook::scales::{Plan, search};
use super::codebook::shifted::{self, SHIFT, ShiftedCoder, is_down};
use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, Rows, SubBlocks, f16_bits, f16_value, write_f16};
use super::recode::{Choice, Worded};
use super::refit::{Scaled, turn_half, turn_integer};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    /// Low bytes of the codewords.
    codewords: [u8; 32],
    /// Per codeword 3 high bits, then whether it is moved down.
    high: [u8; 16],
    /// 3 bits of scale of four sub-blocks, then 4 bits of the super-scale, the lowest first.
    scales: [[u8; 2]; 4],
}

const _: () = assert!(size_of::<Block>() == 56);

pub(super) struct Iq1M;

const PLAN: Plan = Plan { first: 0.9, ratio: 1.4, count: 3, alternations: 1, top: 15.0, window: 0, refits: 0 };

impl BlockFormat for Iq1M {
    const TYPE: GgmlType = GgmlType::IQ1_M;
    const GROUP: usize = LANES / 16;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let scales = block.scales.map(u16::from_le_bytes);
        let d = super_scale(&scales);
        for (group, out) in out.chunks_exact_mut(8).enumerate() {
            let step = d * (2 * (scales[group / 8] >> (3 * (group / 2 % 4)) & 7) + 1) as f32;
            let high = (block.high[group / 2] >> (4 * (group % 2))) as usize;
            let word = grids::IQ1_S[block.codewords[group] as usize | (high & 7) << 8] as u32;
            let shift = if high & 8 == 8 { -SHIFT } else { SHIFT };
            for (n, out) in out.iter_mut().enumerate() {
                *out = step * ((word >> (2 * n) & 3) as f32 - 1.0 + shift);
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
        let mut coder = ShiftedCoder::<S, 16, 2, false>::new(simd, &tile);
        let fit = search::<_, 16, 2>(&tile, &mut coder, 16, &PLAN);
        let block = &mut blocks[0];
        block.high = [0; 16];
        let mut scales = [0u16; 4];
        set_super_scale(&mut scales, f16_bits(fit.d[0]));
        for lane in 0..16 {
            scales[lane / 4] |= (((fit.multiplier[lane] - 1.0) * 0.5) as u16) << (3 * (lane % 4));
            for half in 0..2 {
                let word = fit.words[half][lane];
                let number = shifted::number(word);
                block.codewords[2 * lane + half] = number as u8;
                let high = (number >> 8) as u8 | (is_down(word) as u8) << 3;
                block.high[lane] |= high << (4 * half);
            }
        }
        block.scales = scales.map(u16::to_le_bytes);
    }
}

impl Scaled for Iq1M {
    const SUB: usize = 16;
    const SCALES: usize = 17;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        let mut scales = block.scales.map(u16::from_le_bytes);
        let moved = if scale == 0 {
            let mut d = write_f16(super_scale(&scales));
            let moved = turn_half(&mut d, by);
            set_super_scale(&mut scales, u16::from_le_bytes(d));
            moved
        } else {
            let (word, shift) = (&mut scales[(scale - 1) / 4], 3 * ((scale - 1) % 4));
            let (after, moved) = turn_integer(i32::from(*word >> shift & 7), by, (0, 7));
            *word = *word & !(7 << shift) | (after as u16) << shift;
            moved
        };
        block.scales = scales.map(u16::to_le_bytes);
        moved
    }
}

impl Worded for Iq1M {
    const UNIT: usize = 8;

    fn step(block: &Block, unit: usize) -> (f32, f32) {
        let scales = block.scales.map(u16::from_le_bytes);
        let scale = scales[unit / 8] >> (3 * (unit / 2 % 4)) & 7;
        (super_scale(&scales) * (2 * scale + 1) as f32, 0.0)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[Lanes; 8], w: &[f32; 8], step: &Lanes) -> Choice {
        shifted::choose(simd, x, w, step, None)
    }

    fn set_word(block: &mut Block, unit: usize, words: [Word; 2], _: u32) {
        let number = shifted::number(words[0]);
        block.codewords[unit] = number as u8;
        let high = (number >> 8) as u8 | (is_down(words[0]) as u8) << 3;
        let shift = 4 * (unit % 2);
        block.high[unit / 2] = block.high[unit / 2] & !(15 << shift) | high << shift;
    }
}

/// The f16 in the top four bits of each word of scales.
#[inline(always)]
fn super_scale(scales: &[u16; 4]) -> f32 {
    f16_value(scales[0] >> 12 | scales[1] >> 12 << 4 | scales[2] >> 12 << 8 | scales[3] >> 12 << 12)
}

#[inline(always)]
fn set_super_scale(scales: &mut [u16; 4], d: u16) {
    for (i, word) in scales.iter_mut().enumerate() {
        *word = *word & 0xfff | (d >> (4 * i) & 15) << 12;
    }
}
