// Q5_1.
const SUB: u32 = 32u;
const LOW: f32 = 0.0;
const HIGH: f32 = 31.0;
const SCALES: u32 = 2u;
const WHOLE: u32 = 2u;
#import decode/q5_1
#import integer_levels
#import recode_steps
#import put_nibble

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 32u + i, 1u, code >> 4u);
    put_nibble(row, 8u, i, code);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    return turn_half(block, 16u * scale, by);
}
