// IQ1_S: 50 bytes, padded to 13 words: d, 32 of low codeword bits, then for each 32 weights 16 bits of high ones, scale, shift.
#import bytes
#import codewords
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 13u;

// The high bits of the 32 weights to which weight i belongs.
fn high_of(block: u32, i: u32) -> u32 {
    let place = 17u + i / 32u;
    return (weights[block + place / 2u] >> (16u * (place % 2u))) & 0xFFFFu;
}

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let high = high_of(block, i);
    let step = half_of(weights[block], 0u) * f32(2u * ((high >> 12u) & 7u) + 1u);
    return vec2<f32>(step, step * select(0.125, -0.125, (high >> 15u) == 1u));
}

fn decode(block: u32, i: u32) -> f32 {
    let high = high_of(block, i);
    let number = byte_at(block, 2u + i / 8u) | (((high >> (3u * ((i / 8u) % 4u))) & 7u) << 8u);
    let level = f32((codeword(IQ1_GRID, number) >> (2u * (i % 8u))) & 3u) - 1.0;
    return step_of(block, i).x * (level + select(0.125, -0.125, (high >> 15u) == 1u));
}
