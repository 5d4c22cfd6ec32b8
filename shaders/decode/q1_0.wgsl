// Q1_0: plus or minus d; 18 bytes, padded to 5 words: d, then a bit for each weight, set for plus.
#import bytes
const BLOCK_LEN: u32 = 128u;
const BLOCK_WORDS: u32 = 5u;

fn decode(block: u32, i: u32) -> f32 {
    let d = half_of(weights[block], 0u);
    return select(-d, d, ((byte_at(block, 2u + i / 8u) >> (i % 8u)) & 1u) == 1u);
}
