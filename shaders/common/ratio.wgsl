// Division as the CPU does it: by zero gives zero. Twin: `ratio` of `src/quant/lanes.rs`.
fn ratio(a: f32, b: f32) -> f32 {
    let quotient = a / select(b, 1.0, b == 0.0);
    return select(quotient, 0.0, b == 0.0);
}

fn reciprocal(b: f32) -> f32 {
    return ratio(1.0, b);
}
