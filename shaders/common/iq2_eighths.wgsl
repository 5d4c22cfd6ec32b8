// The levels of IQ2 codewords in units of a sub-block's scale.
fn level_value(level: u32) -> f32 {
    return select(select(5.375, 3.125, level == 1u), 1.0, level == 0u);
}
