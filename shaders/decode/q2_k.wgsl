// Q2_K: d * scale * code - d_min * min; 84 bytes: 16 scales, 64 of codes, d and d_min.
#import bytes
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 21u;

fn decode(block: u32, i: u32) -> f32 {
    let super_scales = unpack2x16float(weights[block + 20u]);
    let scale = byte_at(block, i / 16u);
    let step = super_scales.x * f32(scale & 15u);
    let offset = super_scales.y * f32(scale >> 4u);
    let code = (byte_at(block, 16u + 32u * (i / 128u) + i % 32u) >> (2u * ((i / 32u) % 4u))) & 3u;
    return opaque(step * f32(code)) - offset;
}
