// MXFP4: 17 bytes, padded to 5 words: an exponent, then byte j with the codes of weights j and j + 16.
#import bytes
#import e2m1
const BLOCK_LEN: u32 = 32u;
const BLOCK_WORDS: u32 = 5u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let exponent = byte_at(block, 0u);
    let normal = select(0u, (exponent - 1u) << 23u, exponent >= 2u);
    return vec2<f32>(bitcast<f32>(select(normal, 0x00200000u << (exponent & 1u), exponent < 2u)), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let code = (byte_at(block, 1u + i % 16u) >> (4u * (i / 16u))) & 15u;
    return e2m1_level(code) * step_of(block, i).x;
}
