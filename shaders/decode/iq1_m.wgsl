// IQ1_M: 56 bytes: 32 of low codeword bits, 16 of high ones and shifts, 4 times 16 bits of 4 scales and a quarter of d.
#import bytes
#import codewords
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 14u;

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    let low = weights[block + 12u];
    let high = weights[block + 13u];
    let d = ((low >> 12u) & 15u) | ((low >> 24u) & 0xF0u) | ((high >> 4u) & 0xF00u) | ((high >> 16u) & 0xF000u);
    let group = i / 8u;
    let scales = select(high, low, group < 16u) >> (16u * ((group / 8u) % 2u));
    return vec2<f32>(half_of(d, 0u) * f32(2u * ((scales >> (3u * ((group / 2u) % 4u))) & 7u) + 1u), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let group = i / 8u;
    let more = byte_at(block, 32u + group / 2u) >> (4u * (group % 2u));
    let levels = codeword(IQ1_GRID, byte_at(block, group) | ((more & 7u) << 8u));
    let level = f32((levels >> (2u * (i % 8u))) & 3u) - 1.0;
    return step_of(block, i).x * (level + select(0.125, -0.125, (more & 8u) != 0u));
}
