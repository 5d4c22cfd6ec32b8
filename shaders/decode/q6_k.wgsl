// Q6_K: d * scale * (code - 32); 210 bytes, padded to 53 words: 128 of low bits, 64 of high bits, 16 signed scales, d.
#import bytes
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 53u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let scale = bitcast<i32>(byte_at(block, 192u + i / 16u) << 24u) >> 24u;
    return vec2<f32>(half_of(weights[block + 52u], 0u) * f32(scale), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let k = (i / 32u) % 4u;
    let low = (byte_at(block, 64u * (i / 128u) + 32u * (k % 2u) + i % 32u) >> (4u * (k / 2u))) & 15u;
    let high = (byte_at(block, 128u + 32u * (i / 128u) + i % 32u) >> (2u * k)) & 3u;
    return step_of(block, i).x * f32(i32(low | (high << 4u)) - 32);
}
