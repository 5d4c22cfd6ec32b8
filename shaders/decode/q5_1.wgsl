// Q5_1: d * code + m; 24 bytes.
#import bytes
const BLOCK_LEN: u32 = 32u;
const BLOCK_WORDS: u32 = 6u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return unpack2x16float(weights[block]);
}

fn decode(block: u32, i: u32) -> f32 {
    let step = step_of(block, i);
    let fifth = (weights[block + 1u] >> i) & 1u;
    let code = ((byte_at(block, 8u + i % 16u) >> (4u * (i / 16u))) & 15u) | (fifth << 4u);
    return opaque(f32(code) * step.x) + step.y;
}
