// IQ3_XXS: 98 bytes, padded to 25 words: d, 64 codewords, then for each 32 weights a word of signs and scale.
#import bytes
#import codewords
#import signs
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 25u;

fn decode(block: u32, i: u32) -> f32 {
    let start = block + 16u + i / 32u;
    let packed = (weights[start] >> 16u) | (weights[start + 1u] << 16u);
    let step = half_of(weights[block], 0u) * (0.5 + f32(packed >> 28u)) * 0.5;
    let levels = codeword(IQ3_XXS_GRID, byte_at(block, 2u + i / 4u));
    let code = (levels >> (3u * (i % 4u))) & 7u;
    // 4, 12, ... 52, 62
    let level = f32(8u * code + 4u) + select(0.0, 2.0, code == 7u);
    return step * level * sign_factor(expand_signs(packed >> (7u * ((i / 8u) % 4u))), i % 8u);
}
