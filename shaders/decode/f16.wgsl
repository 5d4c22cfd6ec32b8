// F16: a block is a word with two weights.
const BLOCK_LEN: u32 = 2u;
const BLOCK_WORDS: u32 = 1u;

fn decode(block: u32, i: u32) -> f32 {
    let pair = unpack2x16float(weights[block]);
    return select(pair.x, pair.y, i == 1u);
}
