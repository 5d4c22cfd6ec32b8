// IQ3_S: 110 bytes, padded to 28 words: d, 64 of low codeword bits, 8 of high ones, 32 of signs, 8 scales of 4 bits.
#import bytes
#import codewords
#import signs
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 28u;

fn decode(block: u32, i: u32) -> f32 {
    let b = i / 32u;
    let scale = (byte_at(block, 106u + b / 2u) >> (4u * (b % 2u))) & 15u;
    let step = half_of(weights[block], 0u) * f32(1u + 2u * scale);
    let high = (byte_at(block, 66u + b) >> ((i / 4u) % 8u)) & 1u;
    let levels = codeword(IQ3_S_GRID, byte_at(block, 2u + i / 4u) | (high << 8u));
    let level = f32(2u * ((levels >> (3u * (i % 4u))) & 7u) + 1u);
    return step * level * sign_factor(byte_at(block, 74u + i / 8u), i % 8u);
}
