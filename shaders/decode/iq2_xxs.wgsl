// IQ2_XXS: 66 bytes, padded to 17 words: d, then for each 32 weights 4 codewords and a word of signs and scale.
#import bytes
#import codewords
#import iq2_levels
#import signs
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 17u;

fn decode(block: u32, i: u32) -> f32 {
    let start = block + 2u * (i / 32u);
    // everything after d is two bytes off
    let numbers = (weights[start] >> 16u) | (weights[start + 1u] << 16u);
    let packed = (weights[start + 1u] >> 16u) | (weights[start + 2u] << 16u);
    let group = (i / 8u) % 4u;
    let step = half_of(weights[block], 0u) * (0.5 + f32(packed >> 28u)) * 0.25;
    let levels = codeword(IQ2_XXS_GRID, (numbers >> (8u * group)) & 255u);
    let level = iq2_level((levels >> (2u * (i % 8u))) & 3u);
    return step * level * sign_factor(expand_signs(packed >> (7u * group)), i % 8u);
}
