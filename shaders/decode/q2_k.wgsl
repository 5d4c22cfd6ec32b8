// Q2_K: d * scale * code - d_min * min; 84 bytes: 16 scales, 64 of codes, d and d_min.
#import bytes
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 21u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let supers = unpack2x16float(weights[block + 20u]);
    let scale = byte_at(block, i / 16u);
    return vec2<f32>(supers.x * f32(scale & 15u), -(supers.y * f32(scale >> 4u)));
}

fn decode(block: u32, i: u32) -> f32 {
    let step = step_of(block, i);
    let code = (byte_at(block, 16u + 32u * (i / 128u) + i % 32u) >> (2u * ((i / 32u) % 4u))) & 3u;
    return opaque(step.x * f32(code)) + step.y;
}
