// 256 weights of two bits, from byte `start` on: byte l of each half holds weights l, l + 32, l + 64, l + 96 of 128.
fn put_quarter(row: u32, start: u32, i: u32, code: u32) {
    put_bits(row, 8u * (start + 32u * (i / 128u) + i % 32u) + 2u * ((i / 32u) % 4u), 2u, code);
}
