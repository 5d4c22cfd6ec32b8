// Q4_1: d * code + m; 20 bytes.
#import bytes
const BLOCK_LEN: u32 = 32u;
const BLOCK_WORDS: u32 = 5u;

fn decode(block: u32, i: u32) -> f32 {
    let affine = unpack2x16float(weights[block]);
    let code = (byte_at(block, 4u + i % 16u) >> (4u * (i / 16u))) & 15u;
    return opaque(f32(code) * affine.x) + affine.y;
}
