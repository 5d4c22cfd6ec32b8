//! NVFP4: 4 sub-blocks of 16 four-bit floats, each with an 8-bit float as its scale. Builds of llama.cpp older than the type
//! reject it.

use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, clamp, map, round_even};
use super::recode::Stepped;
use super::refit::Scaled;
use super::search::{level_codes, scale_error};
use super::{GgmlType, e2m1};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    /// Four bits of exponent, three of mantissa.
    scales: [u8; 4],
    /// Byte `j` of a sub-block: weight `j` low, weight `j + 8` high.
    codes: [[u8; 8]; 4],
}

const _: () = assert!(size_of::<Block>() == 36);

pub(super) struct Nvfp4;

/// Scales tried, in steps of an eighth of an octave from the one that sends the largest weight to the largest level.
const NEAR: std::ops::RangeInclusive<i32> = -4..=6;
/// The same for the lower levels, for weights that lie on a grid.
const LOWER: [f32; 4] = [6.0, 4.0, 2.0, 1.0];
const LARGEST_CODE: f32 = 126.0;

/// Half the scale of a code, for doubled levels. 127 is not a number and decodes to zero in ggml.
#[inline(always)]
fn half_scale(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3 & 15) as u32, (code & 7) as f32);
    let power = f32::from_bits((exponent.max(1) + 127 - 11) << 23);
    let scale = power * if exponent > 0 { 8.0 + mantissa } else { mantissa };
    if code == 127 { 0.0 } else { scale }
}

/// The code whose half scale is nearest to `half`, roughly.
#[inline(always)]
fn nearest_code(half: f32) -> f32 {
    let half = clamp(half, 0.0, 224.0);
    let subnormal = round_even(half * 1024.0);
    // the exponent and three bits of mantissa, rounded
    let normal = ((half.to_bits() + (1 << 19)) >> 20) as f32 - ((127 - 8) * 8) as f32;
    if half < 8.0 / 1024.0 { subnormal } else { clamp(normal, 8.0, LARGEST_CODE) }
}

impl BlockFormat for Nvfp4 {
    const TYPE: GgmlType = GgmlType::NVFP4;
    const GROUP: usize = LANES / 4;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        for ((scale, codes), out) in block.scales.iter().zip(&block.codes).zip(out.chunks_exact_mut(16)) {
            let scale = half_scale(*scale);
            for (n, out) in out.iter_mut().enumerate() {
                *out = e2m1::level(codes[n % 8] >> (n / 8 * 4)) * scale;
            }
        }
    }

    fn exact(values: &[f32], precision: super::lossless::Precision) -> Option<Block> {
        let mut block = Block { scales: [0; 4], codes: [[0; 8]; 4] };
        let stored = |half: f32| Some(half_scale(nearest_code(half) as u8)).filter(|_| half > 0.0);
        for (part, values) in values.chunks_exact(16).enumerate() {
            let levels = e2m1::anchors();
            let (half, codes) = super::lossless::scaled::<e2m1::Levels, 16, _>(values, precision, levels, stored)?;
            block.scales[part] = nearest_code(half) as u8;
            block.codes[part] = std::array::from_fn(|j| codes[j] | codes[j + 8] << 4);
        }
        Some(block)
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<16>::load(rows, first * 4, 4);
        let largest = e2m1::largest(&tile);
        let base = map(|i| nearest_code(largest[i] / 12.0));
        let mut best = [0.0; LANES];
        let mut error = [f32::INFINITY; LANES];
        let mut try_codes = |code: [f32; LANES]| {
            let code = map(|i| clamp(code[i], 0.0, LARGEST_CODE));
            let trial = scale_error::<e2m1::Levels, 16>(&tile, &map(|i| half_scale(code[i] as u8)));
            for i in 0..LANES {
                let better = trial[i] < error[i];
                best[i] = if better { code[i] } else { best[i] };
                error[i] = if better { trial[i] } else { error[i] };
            }
        };
        for offset in NEAR {
            try_codes(map(|i| base[i] + offset as f32));
        }
        for level in LOWER {
            try_codes(map(|i| nearest_code(largest[i] / level)));
        }
        let codes = level_codes::<e2m1::Levels, 16>(&tile, &map(|i| half_scale(best[i] as u8)));
        for (lane, (scale, codes)) in best.iter().zip(&codes).enumerate() {
            let Some(block) = blocks.get_mut(lane / 4) else { break };
            block.scales[lane % 4] = *scale as u8;
            block.codes[lane % 4] = std::array::from_fn(|j| codes[j] | codes[j + 8] << 4);
        }
    }
}

impl Scaled for Nvfp4 {
    const SUB: usize = 16;
    const SCALES: usize = 0;

    /// Scales that are powers of two or small floats have few neighbours.
    fn turn(_: &mut Block, _: usize, _: f32) -> f32 {
        0.0
    }
}

impl Stepped for Nvfp4 {
    type Levels = e2m1::Levels;

    fn step(block: &Block, sub: usize) -> (f32, f32) {
        (half_scale(block.scales[sub]), 0.0)
    }

    fn set_codes(block: &mut Block, codes: &[u8]) {
        for (bytes, codes) in block.codes.iter_mut().zip(codes.as_chunks::<16>().0) {
            *bytes = std::array::from_fn(|j| codes[j] | codes[j + 8] << 4);
        }
    }
}
