// IQ1_M.
const FREE: bool = true;
#import decode/iq1_m
#import recode_shifted

fn put_word(unit: u32, choice: Choice) {
    let is_down = u32((choice.words.x & DOWN) != 0u);
    put_bits(0u, 8u * unit, 8u, numbers[0]);
    put_bits(0u, 8u * (32u + unit / 2u) + 4u * (unit % 2u), 4u, (numbers[0] >> 8u) | (is_down << 3u));
}
