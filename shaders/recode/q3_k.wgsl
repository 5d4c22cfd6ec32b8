// Q3_K.
const SUB: u32 = 16u;
const LOW: f32 = -4.0;
const HIGH: f32 = 3.0;
const SCALES: u32 = 17u;
const WHOLE: u32 = 1u;
#import decode/q3_k
#import integer_levels
#import recode_steps
#import put_quarter

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 8u * (i % 32u) + i / 32u, 1u, code >> 2u);
    put_quarter(row, 32u, i, code);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale == 0u {
        return turn_half(block, 8u * 108u, by);
    }
    return turn_split(
        block,
        8u * (96u + (scale - 1u) % 8u) + 4u * ((scale - 1u) / 8u),
        8u * (104u + (scale - 1u) % 4u) + 2u * ((scale - 1u) / 4u),
        by,
    );
}
