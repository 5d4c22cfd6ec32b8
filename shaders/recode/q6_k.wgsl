// Q6_K: of each half, low bits of weights l and l + 64 in byte l.
const SUB: u32 = 16u;
const LOW: f32 = -32.0;
const HIGH: f32 = 31.0;
const SCALES: u32 = 17u;
const WHOLE: u32 = 1u;
#import decode/q6_k
#import integer_levels
#import recode_steps
#import put_quarter

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 8u * (64u * (i / 128u) + i % 64u) + 4u * ((i / 64u) % 2u), 4u, code);
    put_quarter(row, 128u, i, code >> 4u);
}

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale == 0u {
        return turn_half(block, 8u * 208u, by);
    }
    let at = 8u * (191u + scale);
    let before = bitcast<i32>(bits_at(block, at, 8u) << 24u) >> 24u;
    let after = turned(before, by, -128, 127);
    set_bits(block, at, 8u, bitcast<u32>(after));
    return f32(after - before);
}
