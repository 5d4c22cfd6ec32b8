// Signs of eight weights in seven bits: the eighth makes the number of minus signs even.
fn expand_signs(stored: u32) -> u32 {
    let seven = stored & 127u;
    return seven | ((countOneBits(seven) & 1u) << 7u);
}

fn sign_factor(signs: u32, i: u32) -> f32 {
    return select(1.0, -1.0, ((signs >> i) & 1u) == 1u);
}
