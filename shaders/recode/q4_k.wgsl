// Q4_K.
const SUB: u32 = 32u;
const LOW: f32 = 0.0;
const HIGH: f32 = 15.0;
#import decode/q4_k
#import integer_levels
#import recode_steps
#import put_half
#import turn_k_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_half(row, 16u, i, code);
}
