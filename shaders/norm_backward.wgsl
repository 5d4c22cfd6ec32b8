// dx = w dy / rms - x (sum of x w dy) / (width rms^3), for x - mean(x) less the mean of w dy / rms; a workgroup per row.
#import grid
#import reduce
#import norm

@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let base = row * params.width;
    let width = f32(params.width);
    let mean = mean_of(local, base);
    let scale = scale_of(local, base, mean);
    var products = 0.0;
    var changes = 0.0;
    for (var i = local; i < params.width; i += WORKGROUP) {
        let change = weight[i] * dy[base + i];
        products += (x[base + i] - mean) * change;
        changes += change;
    }
    let shrink = reduce_sum(local, products) * scale * scale * scale / width;
    var shift = 0.0;
    if params.centres != 0u {
        shift = reduce_sum(local, changes) * scale / width;
    }
    for (var i = local; i < params.width; i += WORKGROUP) {
        var gradient = scale * weight[i] * dy[base + i] - shrink * (x[base + i] - mean) - shift;
        if params.accumulate != 0u {
            gradient += dx[base + i];
        }
        dx[base + i] = gradient;
    }
}
