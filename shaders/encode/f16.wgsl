// F16: two weights a word; NaN becomes zero, what is too large saturates.
#import grid
#import f16

struct Params { grid: Grid, words: u32, first: u32, first_word: u32, pad: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> blocks: array<u32>;

fn encoded(at: u32) -> u32 {
    let value = values[params.first + at];
    let is_nan = (bitcast<u32>(value) & 0x7FFFFFFFu) > 0x7F800000u;
    return select(f16_bits(value), 0u, is_nan);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    let word = group * 256u + local;
    if word < params.words {
        blocks[params.first_word + word] = encoded(2u * word) | (encoded(2u * word + 1u) << 16u);
    }
}
