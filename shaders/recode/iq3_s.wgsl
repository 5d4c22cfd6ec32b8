// IQ3_S.
const UNIT: u32 = 4u;
const SUB: u32 = 32u;
const SCALES: u32 = 9u;
const WHOLE: u32 = 1u;
#import decode/iq3_s
#import book_iq3_s
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 8u * (2u + unit), 8u, numbers[0]);
    put_bits(0u, 8u * 66u + unit, 1u, numbers[0] >> 8u);
    put_bits(0u, 8u * 74u + 4u * unit, 4u, choice.signs);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale == 0u {
        return turn_half(block, 0u, by);
    }
    return turn_bits(block, 8u * 106u + 4u * (scale - 1u), 4u, by);
}
