// Q5_K: d * scale * code - d_min * min; 176 bytes: d and d_min, 12 of scales, 32 of fifth bits, 128 of low bits.
#import bytes
#import k_scales
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 44u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let step = unpack2x16float(weights[block]) * k_scale(block + 1u, i / 32u);
    return vec2<f32>(step.x, -step.y);
}

fn decode(block: u32, i: u32) -> f32 {
    let step = step_of(block, i);
    let low = (byte_at(block, 48u + 32u * (i / 64u) + i % 32u) >> (4u * ((i / 32u) % 2u))) & 15u;
    let fifth = (byte_at(block, 16u + i % 32u) >> (i / 32u)) & 1u;
    return opaque(step.x * f32(low | (fifth << 4u))) + step.y;
}
