// Q8_0: d * code; 34 bytes, padded to 9 words.
#import bytes
const BLOCK_LEN: u32 = 32u;
const BLOCK_WORDS: u32 = 9u;

fn decode(block: u32, i: u32) -> f32 {
    let code = bitcast<i32>(byte_at(block, 2u + i) << 24u) >> 24u;
    return f32(code) * half_of(weights[block], 0u);
}
