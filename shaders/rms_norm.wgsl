// y = x / rms(x) * weight; a workgroup per row.
#import grid
#import reduce

struct Params { grid: Grid, width: u32, eps: f32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let base = row * params.width;
    var squares = 0.0;
    for (var i = local; i < params.width; i += WORKGROUP) {
        let value = x[base + i];
        squares += value * value;
    }
    let mean = reduce_sum(local, squares) / f32(params.width);
    let scale = 1.0 / sqrt(mean + params.eps);
    for (var i = local; i < params.width; i += WORKGROUP) {
        y[base + i] = x[base + i] * scale * weight[i];
    }
}
