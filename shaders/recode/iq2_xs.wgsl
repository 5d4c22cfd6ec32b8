// IQ2_XS.
const UNIT: u32 = 8u;
#import decode/iq2_xs
#import book_iq2_xs
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 16u * (1u + unit), 16u, numbers[0] | ((choice.signs & 127u) << 9u));
}
