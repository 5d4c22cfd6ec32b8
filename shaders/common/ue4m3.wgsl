// Half the value of the 8-bit scale of NVFP4: four bits of exponent, three of mantissa; 127 is not a number and decodes to 0.
fn half_scale(code: u32) -> f32 {
    let exponent = (code >> 3u) & 15u;
    let power = bitcast<f32>((max(exponent, 1u) + 116u) << 23u);
    let scale = power * f32((code & 7u) + select(0u, 8u, exponent > 0u));
    return select(scale, 0.0, code == 127u);
}
