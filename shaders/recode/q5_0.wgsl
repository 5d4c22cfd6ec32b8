// Q5_0.
const SUB: u32 = 32u;
const LOW: f32 = -16.0;
const HIGH: f32 = 15.0;
const D_AT: u32 = 0u;
#import decode/q5_0
#import integer_levels
#import recode_steps
#import put_nibble
#import one_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 16u + i, 1u, code >> 4u);
    put_nibble(row, 6u, i, code);
}
