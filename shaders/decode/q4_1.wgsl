// Q4_1: d * code + m; 20 bytes.
#import bytes
const BLOCK_LEN: u32 = 32u;
const BLOCK_WORDS: u32 = 5u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return unpack2x16float(weights[block]);
}

fn decode(block: u32, i: u32) -> f32 {
    let step = step_of(block, i);
    let code = (byte_at(block, 4u + i % 16u) >> (4u * (i / 16u))) & 15u;
    return opaque(f32(code) * step.x) + step.y;
}
