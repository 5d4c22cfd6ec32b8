// Q2_K.
const SUB: u32 = 16u;
const LOW: f32 = 0.0;
const HIGH: f32 = 3.0;
#import decode/q2_k
#import integer_levels
#import recode_steps
#import put_quarter

fn put_code(row: u32, i: u32, code: u32) {
    put_quarter(row, 16u, i, code);
}
