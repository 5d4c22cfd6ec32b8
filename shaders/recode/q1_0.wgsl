// Q1_0: a set bit for plus.
const SUB: u32 = 128u;
const D_AT: u32 = 0u;
#import decode/q1_0
#import recode_steps
#import one_scale

fn nearest(y: f32) -> f32 {
    return select(-1.0, 1.0, y >= 0.0);
}

fn code_of(y: f32) -> u32 {
    return u32(y >= 0.0);
}

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 16u + i, 1u, code);
}
