// The gradients of activation(gate) * up; four elements per invocation.
#import grid
#import activation

struct Params { grid: Grid, len: u32, activation: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read> dout: array<f32>;
@group(0) @binding(4) var<storage, read_write> dgate: array<f32>;
@group(0) @binding(5) var<storage, read_write> dup: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            let given = vec2(gate[index], up[index]);
            let pair = bounded_pair(params.activation, given);
            let slopes = inside(params.activation, given);
            let s = activation_gate(params.activation, pair.x);
            dgate[index] = dout[index] * pair.y * s.x * (1.0 + pair.x * s.y * (1.0 - s.x)) * slopes.x;
            dup[index] = dout[index] * pair.x * s.x * slopes.y;
        }
    }
}
