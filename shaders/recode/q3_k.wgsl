// Q3_K.
const SUB: u32 = 16u;
const LOW: f32 = -4.0;
const HIGH: f32 = 3.0;
#import decode/q3_k
#import integer_levels
#import recode_steps
#import put_quarter

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 8u * (i % 32u) + i / 32u, 1u, code >> 2u);
    put_quarter(row, 32u, i, code);
}
