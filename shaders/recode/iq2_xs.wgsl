// IQ2_XS.
const UNIT: u32 = 8u;
const SUB: u32 = 16u;
const SCALES: u32 = 17u;
const WHOLE: u32 = 1u;
#import decode/iq2_xs
#import book_iq2_xs
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 16u * (1u + unit), 16u, numbers[0] | ((choice.signs & 127u) << 9u));
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale == 0u {
        return turn_half(block, 0u, by);
    }
    return turn_bits(block, 8u * 66u + 4u * (scale - 1u), 4u, by);
}
