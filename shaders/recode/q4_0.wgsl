// Q4_0.
const SUB: u32 = 32u;
const LOW: f32 = -8.0;
const HIGH: f32 = 7.0;
const D_AT: u32 = 0u;
#import decode/q4_0
#import integer_levels
#import recode_steps
#import put_nibble
#import one_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_nibble(row, 2u, i, code);
}
