// The 4-bit float of MXFP4 and NVFP4, doubled.
fn e2m1_level(code: u32) -> f32 {
    // levels 0, 1, 2, 3, 4, 6, 8, 12
    let magnitude = f32((0xC8643210u >> (4u * (code & 7u))) & 15u);
    return select(magnitude, 0.0 - magnitude, (code & 8u) != 0u);
}
