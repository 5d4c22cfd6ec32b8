// IQ3_XXS: two words share a parity.
const UNIT: u32 = 8u;
const SUB: u32 = 32u;
const SCALES: u32 = 9u;
const WHOLE: u32 = 1u;
#import decode/iq3_xxs
#import book_iq3_xxs
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 8u * (2u + 2u * unit), 8u, numbers[0]);
    put_bits(0u, 8u * (3u + 2u * unit), 8u, numbers[1]);
    put_bits(0u, 8u * (66u + 4u * (unit / 4u)) + 7u * (unit % 4u), 7u, choice.signs);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale == 0u {
        return turn_half(block, 0u, by);
    }
    return turn_bits(block, 8u * (65u + 4u * scale) + 4u, 4u, by);
}
