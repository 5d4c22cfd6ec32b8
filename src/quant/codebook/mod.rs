//! What the IQ formats share: their codewords, the exact search among them, and the search for block scales.

use pulp::Simd;

pub mod book;
pub mod coder;
pub mod grids;
pub mod nearest;
pub mod scales;
pub mod shifted;
pub mod signs;
pub mod tables;

/// The levels of IQ2 codewords; a sub-block's scale is in eighths.
pub const IQ2_LEVELS: [f32; 3] = [8.0, 25.0, 43.0];

/// The levels of IQ2 codewords for searches.
#[inline(always)]
pub fn iq2_values<S: Simd>(simd: S, levels: S::u32s) -> S::f32s {
    let [low, middle, high] = IQ2_LEVELS.map(|level| simd.splat_f32s(level * 0.125));
    let is_low = simd.equal_u32s(levels, simd.splat_u32s(0));
    let is_middle = simd.equal_u32s(levels, simd.splat_u32s(1));
    simd.select_f32s(is_low, low, simd.select_f32s(is_middle, middle, high))
}

/// The odd numbers `2 level + 1`, levels of IQ3 codewords.
#[inline(always)]
pub fn odd_values<S: Simd>(simd: S, levels: S::u32s) -> S::f32s {
    // an integer in the low bits of 2^23
    let bits = simd.or_u32s(levels, simd.splat_u32s(8_388_608f32.to_bits()));
    let level = simd.sub_f32s(simd.transmute_f32s_u32s(bits), simd.splat_f32s(8_388_608.0));
    simd.add_f32s(simd.add_f32s(level, level), simd.splat_f32s(1.0))
}
