// The 6-bit scale (x) and min (y) of sub-block b of Q4_K and Q5_K: 12 bytes from word `scales` on.
fn k_scale(scales: u32, b: u32) -> vec2<f32> {
    let shift = 8u * (b % 4u);
    let first = weights[scales] >> shift;
    let second = weights[scales + 1u] >> shift;
    if b < 4u {
        return vec2<f32>(f32(first & 63u), f32(second & 63u));
    }
    let third = weights[scales + 2u] >> shift;
    let scale = (third & 15u) | ((first >> 2u) & 48u);
    let depth = ((third >> 4u) & 15u) | ((second >> 2u) & 48u);
    return vec2<f32>(f32(scale), f32(depth));
}
