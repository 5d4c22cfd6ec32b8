// Q8_0: codes are signed.
const SUB: u32 = 32u;
const LOW: f32 = -127.0;
const HIGH: f32 = 127.0;
const D_AT: u32 = 0u;
#import decode/q8_0
#import integer_levels
#import recode_steps
#import one_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 16u + 8u * i, 8u, code - 127u);
}
