// 32 weights of four bits, from byte `start` on: byte j holds weight j low, weight j + 16 high.
fn put_nibble(row: u32, start: u32, i: u32, code: u32) {
    put_bits(row, 8u * (start + i % 16u) + 4u * (i / 16u), 4u, code);
}
