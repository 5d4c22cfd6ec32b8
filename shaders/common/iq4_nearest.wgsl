// The level of IQ4_NL and IQ4_XS nearest to y; a y halfway belongs to the level above.
fn nearest(y: f32) -> f32 {
    var level = -127.0;
    level += select(0.0, 23.0, y >= -115.5);
    level += select(0.0, 21.0, y >= -93.5);
    level += select(0.0, 18.0, y >= -74.0);
    level += select(0.0, 16.0, y >= -57.0);
    level += select(0.0, 14.0, y >= -42.0);
    level += select(0.0, 13.0, y >= -28.5);
    level += select(0.0, 12.0, y >= -16.0);
    level += select(0.0, 11.0, y >= -4.5);
    level += select(0.0, 12.0, y >= 7.0);
    level += select(0.0, 12.0, y >= 19.0);
    level += select(0.0, 13.0, y >= 31.5);
    level += select(0.0, 15.0, y >= 45.5);
    level += select(0.0, 16.0, y >= 61.0);
    level += select(0.0, 20.0, y >= 79.0);
    level += select(0.0, 24.0, y >= 101.0);
    return level;
}

fn code_of(y: f32) -> u32 {
    return u32(y >= -115.5) + u32(y >= -93.5) + u32(y >= -74.0) + u32(y >= -57.0) + u32(y >= -42.0)
        + u32(y >= -28.5) + u32(y >= -16.0) + u32(y >= -4.5) + u32(y >= 7.0) + u32(y >= 19.0)
        + u32(y >= 31.5) + u32(y >= 45.5) + u32(y >= 61.0) + u32(y >= 79.0) + u32(y >= 101.0);
}
