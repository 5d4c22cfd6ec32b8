//! Packing shared by the 32-weight formats of 4 and 5 bits: byte `j` holds weight `j` low and weight `j + 16` high.

/// Low nibbles of 32 codes.
#[inline(always)]
pub(super) fn pack(codes: &[u8]) -> [u8; 16] {
    std::array::from_fn(|j| (codes[j] & 15) | (codes[j + 16] << 4))
}

/// The nibbles of 32 weights, in order.
#[inline(always)]
pub(super) fn unpack(bytes: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|j| if j < 16 { bytes[j] & 15 } else { bytes[j - 16] >> 4 })
}

/// The fifth bits of 32 codes, weight `j` in bit `j`.
#[inline(always)]
pub(super) fn pack_high(codes: &[u8]) -> [u8; 4] {
    let mut bits = 0u32;
    for (j, code) in codes.iter().enumerate() {
        bits |= ((*code as u32 >> 4) & 1) << j;
    }
    bits.to_le_bytes()
}

/// Five-bit codes of 32 weights.
#[inline(always)]
pub(super) fn unpack_five(bytes: &[u8; 16], high: [u8; 4]) -> [u8; 32] {
    let bits = u32::from_le_bytes(high);
    let low = unpack(bytes);
    std::array::from_fn(|j| low[j] | ((bits >> j & 1) as u8) << 4)
}
