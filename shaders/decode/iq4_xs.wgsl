// IQ4_XS: d * (scale - 32) * level; 136 bytes: d, 2 of high scale bits, 4 of low scale bits, 128 of codes.
#import bytes
#import iq4_levels
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 34u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let b = i / 32u;
    let head = weights[block];
    let low = (weights[block + 1u] >> (4u * b)) & 15u;
    let high = (head >> (16u + 2u * b)) & 3u;
    return vec2<f32>(half_of(head, 0u) * f32(i32(low | (high << 4u)) - 32), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let code = (byte_at(block, 8u + 16u * (i / 32u) + i % 16u) >> (4u * ((i / 16u) % 2u))) & 15u;
    return step_of(block, i).x * iq4_level(code);
}
