// The levels of IQ2 codewords.
fn level_value(level: u32) -> f32 {
    return select(select(43.0, 25.0, level == 1u), 8.0, level == 0u);
}
