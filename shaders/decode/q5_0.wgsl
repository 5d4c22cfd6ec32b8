// Q5_0: d * (code - 16); 22 bytes, padded to 6 words.
#import bytes
const BLOCK_LEN: u32 = 32u;
const BLOCK_WORDS: u32 = 6u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_of(weights[block], 0u), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    // the fifth bits are bytes 2 to 5
    let fifth = (byte_at(block, 2u + i / 8u) >> (i % 8u)) & 1u;
    let code = ((byte_at(block, 6u + i % 16u) >> (4u * (i / 16u))) & 15u) | (fifth << 4u);
    return f32(i32(code) - 16) * step_of(block, i).x;
}
