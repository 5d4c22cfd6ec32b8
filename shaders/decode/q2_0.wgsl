// Q2_0: d * (code - 1); 18 bytes, padded to 5 words: d, then 4 codes in a byte.
#import bytes
const BLOCK_LEN: u32 = 64u;
const BLOCK_WORDS: u32 = 5u;

fn decode(block: u32, i: u32) -> f32 {
    let code = (byte_at(block, 2u + i / 4u) >> (2u * (i % 4u))) & 3u;
    return f32(i32(code) - 1) * half_of(weights[block], 0u);
}
