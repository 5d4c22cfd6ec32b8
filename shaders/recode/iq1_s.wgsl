// IQ1_S: all words of a sub-block keep the shift that was found with its scale.
const FREE: bool = false;
#import decode/iq1_s
#import recode_shifted

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 8u * (2u + unit), 8u, numbers[0]);
    put_bits(0u, 16u * (17u + unit / 4u) + 3u * (unit % 4u), 3u, numbers[0] >> 8u);
}
