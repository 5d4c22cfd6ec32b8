// dx = w dy / rms - x (sum of x w dy) / (width rms^3); a workgroup per row.
#import grid
#import reduce

struct Params { grid: Grid, width: u32, eps: f32, accumulate: u32, pad: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let base = row * params.width;
    var squares = 0.0;
    var products = 0.0;
    for (var i = local; i < params.width; i += WORKGROUP) {
        let value = x[base + i];
        squares += value * value;
        products += value * weight[i] * dy[base + i];
    }
    let width = f32(params.width);
    let scale = 1.0 / sqrt(reduce_sum(local, squares) / width + params.eps);
    let shrink = reduce_sum(local, products) * scale * scale * scale / width;
    for (var i = local; i < params.width; i += WORKGROUP) {
        var gradient = scale * weight[i] * dy[base + i] - shrink * x[base + i];
        if params.accumulate != 0u {
            gradient += dx[base + i];
        }
        dx[base + i] = gradient;
    }
}
