// Last pass of sample_gradient: z becomes softmax(z) - [the label]; a workgroup per position.
#import grid

struct Params { grid: Grid, tile: u32, first: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: array<f32>;
@group(0) @binding(2) var<storage, read_write> z: array<f32>;

const STATE: u32 = 8u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let start = row * params.tile;
    let largest = state[row * STATE];
    let share = 1.0 / state[row * STATE + 1u];
    let label = u32(state[row * STATE + 3u]);
    for (var i = local; i < params.tile; i += 256u) {
        let probability = exp(z[start + i] - largest) * share;
        z[start + i] = select(probability, probability - 1.0, params.first + i == label);
    }
}
