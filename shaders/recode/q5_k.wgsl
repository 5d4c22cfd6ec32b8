// Q5_K.
const SUB: u32 = 32u;
const LOW: f32 = 0.0;
const HIGH: f32 = 31.0;
#import decode/q5_k
#import integer_levels
#import recode_steps
#import put_half
#import turn_k_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 8u * (16u + i % 32u) + i / 32u, 1u, code >> 4u);
    put_half(row, 48u, i, code);
}
