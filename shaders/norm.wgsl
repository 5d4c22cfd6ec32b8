// y = x / rms(x) * weight, or the same of x - mean(x); a workgroup per row.
#import grid
#import reduce
#import norm

@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let base = row * params.width;
    let mean = mean_of(local, base);
    let scale = scale_of(local, base, mean);
    for (var i = local; i < params.width; i += WORKGROUP) {
        y[base + i] = (x[base + i] - mean) * scale * weight[i];
    }
}
