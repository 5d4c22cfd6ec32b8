// 1 / (1 + exp(-x)), without ever making an infinity: a shader may not have them.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 80.0)));
}
