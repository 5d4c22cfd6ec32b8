// Q4_1.
const SUB: u32 = 32u;
const LOW: f32 = 0.0;
const HIGH: f32 = 15.0;
const SCALES: u32 = 2u;
const WHOLE: u32 = 2u;
#import decode/q4_1
#import integer_levels
#import recode_steps
#import put_nibble

fn put_code(row: u32, i: u32, code: u32) {
    put_nibble(row, 4u, i, code);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    return turn_half(block, 16u * scale, by);
}
