// Q2_0: d * (code - 1); 18 bytes, padded to 5 words: d, then 4 codes in a byte.
#import bytes
const BLOCK_LEN: u32 = 64u;
const BLOCK_WORDS: u32 = 5u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_of(weights[block], 0u), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let code = (byte_at(block, 2u + i / 4u) >> (2u * (i % 4u))) & 3u;
    return f32(i32(code) - 1) * step_of(block, i).x;
}
