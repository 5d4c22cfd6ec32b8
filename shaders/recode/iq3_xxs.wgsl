// IQ3_XXS: two words share a parity.
const UNIT: u32 = 8u;
#import decode/iq3_xxs
#import book_iq3_xxs
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 8u * (2u + 2u * unit), 8u, numbers[0]);
    put_bits(0u, 8u * (3u + 2u * unit), 8u, numbers[1]);
    put_bits(0u, 8u * (66u + 4u * (unit / 4u)) + 7u * (unit % 4u), 7u, choice.signs);
}
