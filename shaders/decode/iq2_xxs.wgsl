// IQ2_XXS: 66 bytes, padded to 17 words: d, then for each 32 weights 4 codewords and a word of signs and scale.
#import bytes
#import codewords
#import iq2_levels
#import signs
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 17u;

// The word of signs and scale of the 32 weights to which weight i belongs.
fn packed_of(block: u32, i: u32) -> u32 {
    // everything after d is two bytes off
    let start = block + 2u * (i / 32u);
    return (weights[start + 1u] >> 16u) | (weights[start + 2u] << 16u);
}

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_of(weights[block], 0u) * (0.5 + f32(packed_of(block, i) >> 28u)) * 0.25, 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let start = block + 2u * (i / 32u);
    let numbers = (weights[start] >> 16u) | (weights[start + 1u] << 16u);
    let packed = packed_of(block, i);
    let group = (i / 8u) % 4u;
    let levels = codeword(IQ2_XXS_GRID, (numbers >> (8u * group)) & 255u);
    let level = level_value((levels >> (2u * (i % 8u))) & 3u);
    return step_of(block, i).x * level * sign_factor(expand_signs(packed >> (7u * group)), i % 8u);
}
