// The levels of the 4-bit float, doubled, for searches. Twin: `Levels` of `src/quant/e2m1.rs`.
fn nearest(y: f32) -> f32 {
    let bounded = clamp(y, -12.0, 12.0);
    let magnitude = abs(bounded);
    let step = select(select(4.0, 2.0, magnitude < 8.0), 1.0, magnitude < 4.0);
    let inverse = select(select(0.25, 0.5, magnitude < 8.0), 1.0, magnitude < 4.0);
    return round(bounded * inverse) * step;
}

fn code_of(y: f32) -> u32 {
    let level = nearest(y);
    let magnitude = u32(abs(level));
    let gaps = u32(magnitude > 4u) + u32(magnitude > 6u) + 3u * u32(magnitude > 8u);
    return (magnitude - gaps) | select(0u, 8u, level < 0.0);
}
