// Q1_0: plus or minus d; 18 bytes, padded to 5 words: d, then a bit for each weight, set for plus.
#import bytes
const BLOCK_LEN: u32 = 128u;
const BLOCK_WORDS: u32 = 5u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_of(weights[block], 0u), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let d = step_of(block, i).x;
    return select(-d, d, ((byte_at(block, 2u + i / 8u) >> (i % 8u)) & 1u) == 1u);
}
