// IQ2_XS: 74 bytes, padded to 19 words: d, 32 codewords with 7 signs each, 16 scales of 4 bits.
#import bytes
#import codewords
#import iq2_levels
#import signs
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 19u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let scale = (byte_at(block, 66u + i / 32u) >> (4u * ((i / 16u) % 2u))) & 15u;
    return vec2<f32>(half_of(weights[block], 0u) * (0.5 + f32(scale)) * 0.25, 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let group = i / 8u;
    let place = group + 1u;
    let packed = (weights[block + place / 2u] >> (16u * (place % 2u))) & 0xFFFFu;
    let levels = codeword(IQ2_XS_GRID, packed & 511u);
    let level = level_value((levels >> (2u * (i % 8u))) & 3u);
    return step_of(block, i).x * level * sign_factor(expand_signs(packed >> 9u), i % 8u);
}
