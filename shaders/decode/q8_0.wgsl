// Q8_0: d * code; 34 bytes, padded to 9 words.
#import bytes
const BLOCK_LEN: u32 = 32u;
const BLOCK_WORDS: u32 = 9u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_of(weights[block], 0u), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let code = bitcast<i32>(byte_at(block, 2u + i) << 24u) >> 24u;
    return f32(code) * step_of(block, i).x;
}
