// Changing numbers in the block that begins at word `block` of `weights`. Twin: `src/quant/refit.rs`.
#import f16
#import ratio

// Bits of the block, counted from its beginning; never from two words.
fn bits_at(block: u32, at: u32, width: u32) -> u32 {
    return extractBits(weights[block + at / 32u], at % 32u, width);
}

fn set_bits(block: u32, at: u32, width: u32, value: u32) {
    let word = block + at / 32u;
    weights[word] = insertBits(weights[word], value, at % 32u, width);
}

// The bits of a half times 1 + by.
fn turned_half(bits: u32, by: f32) -> u32 {
    return f16_bits(half_of(bits, 0u) * (1.0 + by));
}

fn relative_change(before: u32, after: u32) -> f32 {
    let half = half_of(before, 0u);
    return select(opaque(ratio(half_of(after, 0u), half)) - 1.0, 0.0, half == 0.0);
}

// Multiplies a half by 1 + by; returns the relative change.
fn turn_half(block: u32, at: u32, by: f32) -> f32 {
    let before = bits_at(block, at, 16u);
    let after = turned_half(before, by);
    set_bits(block, at, 16u, after);
    return relative_change(before, after);
}

// An integer moved by `by`.
fn turned(before: i32, by: f32, low: i32, high: i32) -> i32 {
    return clamp(before + i32(round(clamp(by, -512.0, 512.0))), low, high);
}

// Moves a number of `width` bits; returns by how much.
fn turn_bits(block: u32, at: u32, width: u32, by: f32) -> f32 {
    let before = i32(bits_at(block, at, width));
    let after = turned(before, by, 0, (1 << width) - 1);
    set_bits(block, at, width, u32(after));
    return f32(after - before);
}

// The same for a number of six bits whose two high ones are elsewhere.
fn turn_split(block: u32, low_at: u32, high_at: u32, by: f32) -> f32 {
    let before = i32(bits_at(block, low_at, 4u) | (bits_at(block, high_at, 2u) << 4u));
    let after = turned(before, by, 0, 63);
    set_bits(block, low_at, 4u, u32(after));
    set_bits(block, high_at, 2u, u32(after) >> 4u);
    return f32(after - before);
}
