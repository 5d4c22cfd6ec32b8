// IQ3_S: 110 bytes, padded to 28 words: d, 64 of low codeword bits, 8 of high ones, 32 of signs, 8 scales of 4 bits.
#import bytes
#import codewords
#import signs
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 28u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let scale = (byte_at(block, 106u + i / 64u) >> (4u * ((i / 32u) % 2u))) & 15u;
    return vec2<f32>(half_of(weights[block], 0u) * f32(1u + 2u * scale), 0.0);
}

fn level_value(level: u32) -> f32 {
    return f32(2u * level + 1u);
}

fn decode(block: u32, i: u32) -> f32 {
    let high = (byte_at(block, 66u + i / 32u) >> ((i / 4u) % 8u)) & 1u;
    let levels = codeword(IQ3_S_GRID, byte_at(block, 2u + i / 4u) | (high << 8u));
    let level = level_value((levels >> (3u * (i % 4u))) & 7u);
    return step_of(block, i).x * level * sign_factor(byte_at(block, 74u + i / 8u), i % 8u);
}
