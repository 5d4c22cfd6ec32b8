// TQ1_0: 54 bytes, padded to 14 words: 48 with five ternary digits each in runs of 32 and 16, 4 with four, d.
#import bytes
const BLOCK_LEN: u32 = 256u;
const BLOCK_WORDS: u32 = 14u;

// First weight, first byte and bytes of the run of weight i.
fn run_of(i: u32) -> vec3<u32> {
    if i >= 240u {
        return vec3<u32>(240u, 48u, 4u);
    }
    if i >= 160u {
        return vec3<u32>(160u, 32u, 16u);
    }
    return vec3<u32>(0u, 0u, 32u);
}

// Step and offset of weight i.
fn step_of(block: u32, i: u32) -> vec2<f32> {
    return vec2<f32>(half_of(weights[block + 13u], 0u), 0.0);
}

fn decode(block: u32, i: u32) -> f32 {
    let run = run_of(i);
    let digit = (i - run.x) / run.z;
    var rest = byte_at(block, run.y + (i - run.x) % run.z);
    for (var n = 0u; n < digit; n++) {
        rest = (rest * 3u) & 255u;
    }
    return f32(i32((rest * 3u) >> 8u) - 1) * step_of(block, i).x;
}
