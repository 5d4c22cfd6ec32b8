// out = activation(gate) * up, or the same of bounded values; four elements per invocation.
#import grid
#import activation

struct Params { grid: Grid, len: u32, activation: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            let pair = bounded_pair(params.activation, vec2(gate[index], up[index]));
            out[index] = pair.x * activation_gate(params.activation, pair.x).x * pair.y;
        }
    }
}
