// F32: a block is one weight.
const BLOCK_LEN: u32 = 1u;
const BLOCK_WORDS: u32 = 1u;

fn decode(block: u32, i: u32) -> f32 {
    return bitcast<f32>(weights[block]);
}
