// Q2_0.
const SUB: u32 = 64u;
const LOW: f32 = -1.0;
const HIGH: f32 = 2.0;
const D_AT: u32 = 0u;
#import decode/q2_0
#import integer_levels
#import recode_steps
#import one_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 16u + 2u * i, 2u, code);
}
