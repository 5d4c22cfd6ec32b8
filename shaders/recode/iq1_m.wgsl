// IQ1_M.
const FREE: bool = true;
const SUB: u32 = 16u;
const SCALES: u32 = 17u;
const WHOLE: u32 = 1u;
#import decode/iq1_m
#import recode_shifted

fn put_word(unit: u32, choice: Choice) {
    let is_down = u32((choice.words.x & DOWN) != 0u);
    put_bits(0u, 8u * unit, 8u, numbers[0]);
    put_bits(0u, 8u * (32u + unit / 2u) + 4u * (unit % 2u), 4u, (numbers[0] >> 8u) | (is_down << 3u));
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale > 0u {
        return turn_bits(block, 384u + 16u * ((scale - 1u) / 4u) + 3u * ((scale - 1u) % 4u), 3u, by);
    }
    // d is in the highest bits of the four halves of scales
    var d = 0u;
    for (var n = 0u; n < 4u; n++) {
        d |= bits_at(block, 396u + 16u * n, 4u) << (4u * n);
    }
    let turned_d = turned_half(d, by);
    for (var n = 0u; n < 4u; n++) {
        set_bits(block, 396u + 16u * n, 4u, turned_d >> (4u * n));
    }
    return relative_change(d, turned_d);
}
