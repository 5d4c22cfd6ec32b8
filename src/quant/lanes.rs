//! Sixteen sub-blocks side by side: every lane of a [`Tile`] is one sub-block, and all arithmetic runs per lane in the order
//! of the weights. Nothing is reassociated, so SSE2, AVX-512, NEON and one GPU invocation per sub-block give the same bits.

/// Lanes of a tile: one AVX-512 register, two of AVX2, four of SSE2 or NEON.
pub const LANES: usize = 16;

/// One number per sub-block.
pub type Lanes = [f32; LANES];

/// Sub-blocks of `N` numbers, transposed.
pub type Tile<const N: usize> = [Lanes; N];

/// Codes of the sub-blocks of a tile, not transposed.
pub type Codes<const N: usize> = [[u8; N]; LANES];

pub const ZERO: Lanes = [0.0; LANES];

/// Largest magnitude that is searched: beyond what any block format can store, and its square is far from overflow.
const LARGEST: f32 = 1_073_741_824.0;
/// Magnitudes below this are zero for every format (the smallest f16 is 2^-24) and would make reciprocals overflow.
const SMALLEST: f32 = 1.0 / 1_152_921_504_606_846_976.0;
/// Weight of a column without importance, relative to the largest of its block.
const FAINTEST: f32 = 1e-12;
/// Largest finite f16.
const F16_MAX: f32 = 65504.0;

/// Rows to be encoded: `importance` is that of one row and repeats every `importance.len()` values.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub values: &'a [f32],
    pub importance: &'a [f32],
}

/// The weights of 16 sub-blocks and their importance, made safe for the search.
pub struct SubBlocks<const N: usize> {
    pub x: Tile<N>,
    pub w: Tile<N>,
}

impl<const N: usize> SubBlocks<N> {
    /// Loads 16 sub-blocks from sub-block `first` on; those past the end are zero. `per_block` lanes form a block, and
    /// share a power of two that brings their largest importance near 1, so that products of weights stay in range.
    #[inline(always)]
    pub fn load(rows: Rows, first: usize, per_block: usize) -> Self {
        let mut tile = SubBlocks { x: [ZERO; N], w: [[1.0; LANES]; N] };
        let cols = rows.importance.len();
        for lane in 0..LANES {
            let start = (first + lane) * N;
            if start >= rows.values.len() {
                break;
            }
            let values = &rows.values[start..start + N];
            let importance = &rows.importance[start % cols..start % cols + N];
            for n in 0..N {
                tile.x[n][lane] = values[n];
                tile.w[n][lane] = importance[n];
            }
        }
        // apart from the transposition: this order vectorizes
        for (x, w) in tile.x.as_flattened_mut().iter_mut().zip(tile.w.as_flattened_mut()) {
            (*x, *w) = (sanitize(*x), sanitize_weight(*w));
        }
        tile.normalize(per_block);
        tile
    }

    /// A tile of one block, weight `n` in lane `n % 16`.
    #[inline(always)]
    pub fn interleaved(values: &[f32], importance: &[f32]) -> Self {
        let mut tile = SubBlocks { x: [ZERO; N], w: [ZERO; N] };
        for (x, value) in tile.x.as_flattened_mut().iter_mut().zip(values) {
            *x = sanitize(*value);
        }
        // weights are not negative, so they are ordered as their bits
        let mut largest = 0;
        for (w, importance) in tile.w.as_flattened_mut().iter_mut().zip(importance) {
            *w = sanitize_weight(*importance);
            largest = largest.max(w.to_bits());
        }
        let factor = importance_factor(f32::from_bits(largest));
        for w in tile.w.as_flattened_mut() {
            *w = if factor > 0.0 { max(*w * factor, FAINTEST) } else { 1.0 };
        }
        tile
    }

    #[inline(always)]
    fn normalize(&mut self, per_block: usize) {
        let mut largest = ZERO;
        for row in &self.w {
            for i in 0..LANES {
                largest[i] = max(largest[i], row[i]);
            }
        }
        for block in largest.chunks_exact_mut(per_block) {
            let top = block.iter().fold(0.0, |a, &b| max(a, b));
            block.fill(top);
        }
        let factor = map(|i| importance_factor(largest[i]));
        for row in &mut self.w {
            for i in 0..LANES {
                let scaled = max(row[i] * factor[i], FAINTEST);
                row[i] = if factor[i] > 0.0 { scaled } else { 1.0 };
            }
        }
    }
}

/// The power of two that brings a weight near 1; 0 where that is zero, subnormal or absurd and all weights become 1.
#[inline(always)]
fn importance_factor(largest: f32) -> f32 {
    let exponent = largest.to_bits() >> 23;
    if (2..=252).contains(&exponent) { f32::from_bits((254 - exponent) << 23) } else { 0.0 }
}

/// What is not a positive finite number counts as no importance.
#[inline(always)]
fn sanitize_weight(w: f32) -> f32 {
    if w.to_bits() <= f32::MAX.to_bits() { w } else { 0.0 }
}

/// NaN and dust become zero, infinities the largest searched magnitude.
#[inline(always)]
pub fn sanitize(x: f32) -> f32 {
    let magnitude = f32::from_bits(x.to_bits() & 0x7fff_ffff);
    // false for NaN too
    let kept = if magnitude > SMALLEST { x } else { 0.0 };
    clamp(kept, -LARGEST, LARGEST)
}

/// `max` without the NaN rule of `f32::max`: a single instruction.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
pub fn clamp(x: f32, low: f32, high: f32) -> f32 {
    min(max(x, low), high)
}

/// Rounds half to even for |x| <= 2^22 (`round` in WGSL): adding 1.5 * 2^23 leaves no fraction bits. Vectorizes on SSE2 too.
#[inline(always)]
pub fn round_even(x: f32) -> f32 {
    (x + 12_582_912.0) - 12_582_912.0
}

/// The low byte of an integer held in an f32, two's complement.
#[inline(always)]
pub fn small_integer(x: f32) -> u8 {
    (x + 12_582_912.0).to_bits() as u8
}

/// `1 / x`, or 0 for 0: a zero scale then gives zero codes.
#[inline(always)]
pub fn reciprocal(x: f32) -> f32 {
    ratio(1.0, x)
}

/// `a / b`, or 0 where b is 0.
#[inline(always)]
pub fn ratio(a: f32, b: f32) -> f32 {
    let safe = if b == 0.0 { 1.0 } else { b };
    let quotient = a / safe;
    if b == 0.0 { 0.0 } else { quotient }
}

/// The bits of the f16 nearest to `x`, ties to even, finite values only saturate. Branch-free, equal to `half::f16::from_f32`
/// of the clamped value.
#[inline(always)]
pub fn f16_bits(x: f32) -> u16 {
    let x = clamp(x, -F16_MAX, F16_MAX);
    let sign = (x.to_bits() >> 16) & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let rebased = magnitude.wrapping_sub(112 << 23);
    let normal = rebased.wrapping_add(0xfff + ((rebased >> 13) & 1)) >> 13;
    // a subnormal half is a multiple of 2^-24, the last bit of numbers near 0.5
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    (sign | if magnitude < (113 << 23) { subnormal } else { normal }) as u16
}

/// The value of f16 bits. Branch-free.
#[inline(always)]
pub fn f16_value(bits: u16) -> f32 {
    let sign = (bits as u32 & 0x8000) << 16;
    let magnitude = (bits as u32 & 0x7fff) << 13;
    // 2^112 moves the exponent bias from 15 to 127, exactly, subnormal halves included
    let value = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    // infinities and NaN
    let special = if magnitude >= (0x7c00 << 13) { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | sign)
}

/// `x` rounded to f16.
#[inline(always)]
pub fn round_f16(x: f32) -> f32 {
    f16_value(f16_bits(x))
}

/// The value of a little-endian f16.
#[inline(always)]
pub fn read_f16(bytes: [u8; 2]) -> f32 {
    f16_value(u16::from_le_bytes(bytes))
}

/// A little-endian f16.
#[inline(always)]
pub fn write_f16(x: f32) -> [u8; 2] {
    f16_bits(x).to_le_bytes()
}

#[inline(always)]
pub fn map(f: impl Fn(usize) -> f32) -> Lanes {
    let mut out = ZERO;
    for (i, value) in out.iter_mut().enumerate() {
        *value = f(i);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_rounding_is_that_of_half() {
        for bits in (0..=u32::MAX).step_by(4093) {
            let x = f32::from_bits(bits);
            if !x.is_finite() {
                continue;
            }
            let expected = half::f16::from_f32(x.clamp(-F16_MAX, F16_MAX));
            assert_eq!(f16_bits(x), expected.to_bits(), "{x:e}");
            assert_eq!(round_f16(x).to_bits(), expected.to_f32().to_bits(), "{x:e}");
        }
        for bits in 0..=u16::MAX {
            let half = half::f16::from_bits(bits);
            if !half.is_nan() {
                assert_eq!(f16_value(bits).to_bits(), half.to_f32().to_bits());
            }
            if half.is_finite() {
                assert_eq!(f16_bits(half.to_f32()), bits);
            }
        }
    }

    #[test]
    fn rounding_is_half_to_even() {
        for (x, expected) in
            [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0), (126.5, 126.0), (0.49, 0.0)]
        {
            assert_eq!(round_even(x), expected);
        }
    }
}
