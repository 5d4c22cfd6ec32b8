// Q5_1: d * code + m; 24 bytes.
#import bytes
const BLOCK_LEN: u32 = 32u;
const BLOCK_WORDS: u32 = 6u;

fn decode(block: u32, i: u32) -> f32 {
    let affine = unpack2x16float(weights[block]);
    let fifth = (weights[block + 1u] >> i) & 1u;
    let code = ((byte_at(block, 8u + i % 16u) >> (4u * (i / 16u))) & 15u) | (fifth << 4u);
    return opaque(f32(code) * affine.x) + affine.y;
}
