// IQ1_S: all words of a sub-block keep the shift that was found with its scale.
const FREE: bool = false;
const SUB: u32 = 32u;
const SCALES: u32 = 9u;
const WHOLE: u32 = 1u;
#import decode/iq1_s
#import recode_shifted

fn put_word(unit: u32, choice: Choice) {
    put_bits(0u, 8u * (2u + unit), 8u, numbers[0]);
    put_bits(0u, 16u * (17u + unit / 4u) + 3u * (unit % 4u), 3u, numbers[0] >> 8u);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale == 0u {
        return turn_half(block, 0u, by);
    }
    return turn_bits(block, 8u * (33u + 2u * scale) + 4u, 3u, by);
}
