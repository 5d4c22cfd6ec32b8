// 256 weights of four bits, from byte `start` on: byte l of each quarter holds weight l low, weight l + 32 high.
fn put_half(row: u32, start: u32, i: u32, code: u32) {
    put_bits(row, 8u * (start + 32u * (i / 64u) + i % 32u) + 4u * ((i / 32u) % 2u), 4u, code);
}
