// BF16: a block is a word with two weights; a bf16 is the upper half of an f32.
const BLOCK_LEN: u32 = 2u;
const BLOCK_WORDS: u32 = 1u;

fn decode(block: u32, i: u32) -> f32 {
    let word = weights[block];
    return bitcast<f32>(select(word << 16u, word & 0xFFFF0000u, i == 1u));
}
