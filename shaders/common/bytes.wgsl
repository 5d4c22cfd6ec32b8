// Bytes and halves of the block that starts at word `block` of `weights`, which the kernel declares.
fn byte_at(block: u32, i: u32) -> u32 {
    return (weights[block + i / 4u] >> (8u * (i % 4u))) & 255u;
}

// The f16 in the low (0) or high (1) half of a word.
fn half_of(word: u32, upper: u32) -> f32 {
    return unpack2x16float(word >> (16u * upper)).x;
}
