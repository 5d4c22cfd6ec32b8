// IQ2_S.
const UNIT: u32 = 8u;
#import decode/iq2_s
#import book_iq2_s
#import recode_signed

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 8u * (2u + unit), 8u, numbers[0]);
    put_bits(0u, 8u * 66u + 2u * unit, 2u, numbers[0] >> 8u);
    put_bits(0u, 8u * (34u + unit), 8u, choice.signs);
}
