// Q2_K.
const SUB: u32 = 16u;
const LOW: f32 = 0.0;
const HIGH: f32 = 3.0;
const SCALES: u32 = 34u;
const WHOLE: u32 = 2u;
#import decode/q2_k
#import integer_levels
#import recode_steps
#import put_quarter

fn put_code(row: u32, i: u32, code: u32) {
    put_quarter(row, 16u, i, code);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale < WHOLE {
        return turn_half(block, 8u * 80u + 16u * scale, by);
    }
    return turn_bits(block, 8u * ((scale - WHOLE) % 16u) + 4u * ((scale - WHOLE) / 16u), 4u, by);
}
