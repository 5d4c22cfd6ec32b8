// Q6_K: of each half, low bits of weights l and l + 64 in byte l.
const SUB: u32 = 16u;
const LOW: f32 = -32.0;
const HIGH: f32 = 31.0;
#import decode/q6_k
#import integer_levels
#import recode_steps
#import put_quarter

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 8u * (64u * (i / 128u) + i % 64u) + 4u * ((i / 64u) % 2u), 4u, code);
    put_quarter(row, 128u, i, code >> 4u);
}
