// NVFP4: 9 words: 4 scales, then for each 16 weights 8 bytes with the codes of weights j and j + 8.
#import bytes
#import e2m1
#import ue4m3
const BLOCK_LEN: u32 = 64u;
const BLOCK_WORDS: u32 = 9u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_scale(byte_at(block, i / 16u)), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let code = (byte_at(block, 4u + 8u * (i / 16u) + i % 8u) >> (4u * ((i / 8u) % 2u))) & 15u;
    return e2m1_level(code) * step_of(block, i).x;
}
