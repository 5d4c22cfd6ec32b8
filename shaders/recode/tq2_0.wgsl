// TQ2_0.
const SUB: u32 = 256u;
const LOW: f32 = -1.0;
const HIGH: f32 = 2.0;
const D_AT: u32 = 8u * 64u;
#import decode/tq2_0
#import integer_levels
#import recode_steps
#import put_quarter
#import one_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_quarter(row, 0u, i, code);
}
