// IQ2_XXS.
const UNIT: u32 = 8u;
const SUB: u32 = 32u;
const SCALES: u32 = 9u;
const WHOLE: u32 = 1u;
#import decode/iq2_xxs
#import book_iq2_xxs
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    let start = 8u * (2u + 8u * (unit / 4u));
    put_bits(0u, start + 8u * (unit % 4u), 8u, numbers[0]);
    put_bits(0u, start + 32u + 7u * (unit % 4u), 7u, choice.signs);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale == 0u {
        return turn_half(block, 0u, by);
    }
    return turn_bits(block, 8u * (1u + 8u * scale) + 4u, 4u, by);
}
