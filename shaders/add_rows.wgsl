// out[places[i]] += scales[i] * x[i], rows of `width`, each place once; four elements per invocation.
#import grid

struct Params { grid: Grid, len: u32, width: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            let row = index / params.width;
            let column = index - row * params.width;
            out[places[row] * params.width + column] += scales[row] * x[index];
        }
    }
}
