// IQ2_XXS.
const UNIT: u32 = 8u;
#import decode/iq2_xxs
#import book_iq2_xxs
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    let start = 8u * (2u + 8u * (unit / 4u));
    put_bits(0u, start + 8u * (unit % 4u), 8u, numbers[0]);
    put_bits(0u, start + 32u + 7u * (unit % 4u), 7u, choice.signs);
}
