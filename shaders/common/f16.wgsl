// f32 to f16 by integers, ties to even: no hardware conversion rounds the same everywhere.

// The f16 bits nearest to x; what is too large saturates at the largest finite f16.
fn f16_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(opaque(x));
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = min(bits & 0x7FFFFFFFu, 0x477FE000u);
    if magnitude >= 0x38800000u {
        let rebased = magnitude - 0x38000000u;
        return sign | ((rebased + 0xFFFu + ((rebased >> 13u) & 1u)) >> 13u);
    }
    if magnitude < 0x33000000u {
        return sign;
    }
    // a subnormal half: the significand shifted to multiples of 2^-24
    let shift = 126u - (magnitude >> 23u);
    let significand = (magnitude & 0x7FFFFFu) | 0x800000u;
    let whole = significand >> shift;
    let rest = significand & ((1u << shift) - 1u);
    let tie = 1u << (shift - 1u);
    let up = rest > tie || (rest == tie && (whole & 1u) == 1u);
    return sign | (whole + u32(up));
}

fn round_f16(x: f32) -> f32 {
    return unpack2x16float(f16_bits(x)).x;
}
