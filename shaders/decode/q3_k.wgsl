// Q3_K: d * (scale - 32) * (code - 4); 110 bytes, padded to 28 words: 32 of high bits, 64 of low bits, 12 of scales, d.
#import bytes
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 28u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let j = i / 16u;
    let low = (byte_at(block, 96u + j % 8u) >> (4u * (j / 8u))) & 15u;
    let high = (byte_at(block, 104u + j % 4u) >> (2u * (j / 4u))) & 3u;
    return vec2<f32>(half_of(weights[block + 27u], 0u) * f32(i32(low | (high << 4u)) - 32), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let low = (byte_at(block, 32u + 32u * (i / 128u) + i % 32u) >> (2u * ((i / 32u) % 4u))) & 3u;
    let high = (byte_at(block, i % 32u) >> (i / 32u)) & 1u;
    return step_of(block, i).x * f32(i32(low | (high << 2u)) - 4);
}
