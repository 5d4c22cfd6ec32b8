// IQ3_XXS: 98 bytes, padded to 25 words: d, 64 codewords, then for each 32 weights a word of signs and scale.
#import bytes
#import codewords
#import signs
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 25u;

// The word of signs and scale of the 32 weights to which weight i belongs.
fn packed_of(block: u32, i: u32) -> u32 {
    let start = block + 16u + i / 32u;
    return (weights[start] >> 16u) | (weights[start + 1u] << 16u);
}

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_of(weights[block], 0u) * (0.5 + f32(packed_of(block, i) >> 28u)) * 0.5, 0.0);
}

// 4, 12, ... 52, 62
fn level_value(level: u32) -> f32 {
    return f32(8u * level + 4u) + select(0.0, 2.0, level == 7u);
}

fn decode(block: u32, i: u32) -> f32 {
    let levels = codeword(IQ3_XXS_GRID, byte_at(block, 2u + i / 4u));
    let level = level_value((levels >> (3u * (i % 4u))) & 7u);
    return step_of(block, i).x * level * sign_factor(expand_signs(packed_of(block, i) >> (7u * ((i / 8u) % 4u))), i % 8u);
}
