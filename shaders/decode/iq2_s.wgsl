// IQ2_S: 82 bytes, padded to 21 words: d, 32 of low codeword bits, 32 of signs, 8 of high codeword bits, 16 scales of 4 bits.
#import bytes
#import codewords
#import iq2_levels
#import signs
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 21u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let scale = (byte_at(block, 74u + i / 32u) >> (4u * ((i / 16u) % 2u))) & 15u;
    return vec2<f32>(half_of(weights[block], 0u) * (0.5 + f32(scale)) * 0.25, 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let group = i / 8u;
    let high = (byte_at(block, 66u + group / 4u) >> (2u * (group % 4u))) & 3u;
    let levels = codeword(IQ2_S_GRID, byte_at(block, 2u + group) | (high << 8u));
    let level = level_value((levels >> (2u * (i % 8u))) & 3u);
    return step_of(block, i).x * level * sign_factor(byte_at(block, 34u + group), i % 8u);
}
