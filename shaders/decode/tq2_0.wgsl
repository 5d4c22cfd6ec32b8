// TQ2_0: d * (code - 1); 66 bytes, padded to 17 words: 64 of codes, d.
#import bytes
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 17u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_of(weights[block + 16u], 0u), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let code = (byte_at(block, 32u * (i / 128u) + i % 32u) >> (2u * ((i / 32u) % 4u))) & 3u;
    return f32(i32(code) - 1) * step_of(block, i).x;
}
