//! Signs of eight weights in seven bits: the eighth is the parity of the others, so the number of minus signs is even.

/// The eight signs that seven stored bits stand for, a set bit for minus.
#[inline(always)]
pub fn expand(stored: u32) -> u32 {
    let seven = stored & 127;
    seven | (seven.count_ones() & 1) << 7
}

/// The bit of `signs` for a weight as a factor.
#[inline(always)]
pub fn factor(signs: u32, weight: usize) -> f32 {
    f32::from_bits(1f32.to_bits() | (signs >> weight & 1) << 31)
}
