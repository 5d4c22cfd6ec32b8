// IQ4_XS.
const SUB: u32 = 32u;
const SCALES: u32 = 9u;
const WHOLE: u32 = 1u;
#import decode/iq4_xs
#import iq4_nearest
#import recode_steps
#import put_nibble

fn put_code(row: u32, i: u32, code: u32) {
    put_nibble(row, 8u + 16u * (i / 32u), i % 32u, code);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale == 0u {
        return turn_half(block, 0u, by);
    }
    return turn_split(block, 32u + 4u * (scale - 1u), 16u + 2u * (scale - 1u), by);
}
