// TQ1_0: 54 bytes, padded to 14 words: 48 with five ternary digits each in runs of 32 and 16, 4 with four, d.
#import bytes
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 14u;

fn decode(block: u32, i: u32) -> f32 {
    // first weight, first byte and bytes of the run
    var run = vec3<u32>(0u, 0u, 32u);
    if i >= 240u {
        run = vec3<u32>(240u, 48u, 4u);
    } else if i >= 160u {
        run = vec3<u32>(160u, 32u, 16u);
    }
    let digit = (i - run.x) / run.z;
    var rest = byte_at(block, run.y + (i - run.x) % run.z);
    for (var n = 0u; n < digit; n++) {
        rest = (rest * 3u) & 255u;
    }
    return f32(i32((rest * 3u) >> 8u) - 1) * half_of(weights[block + 13u], 0u);
}
