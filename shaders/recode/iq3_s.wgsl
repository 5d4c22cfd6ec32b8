// IQ3_S.
const UNIT: u32 = 4u;
#import decode/iq3_s
#import book_iq3_s
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 8u * (2u + unit), 8u, numbers[0]);
    put_bits(0u, 8u * 66u + unit, 1u, numbers[0] >> 8u);
    put_bits(0u, 8u * 74u + 4u * unit, 4u, choice.signs);
}
