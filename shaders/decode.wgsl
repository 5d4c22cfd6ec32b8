// A weight matrix as f32; one invocation a weight.
#import grid

struct Params { grid: Grid, len: u32, first: u32, first_word: u32, pad: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

#import weight

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            out[params.first + index] = decode(params.first_word + index / BLOCK_LEN * BLOCK_WORDS, index % BLOCK_LEN);
        }
    }
}
