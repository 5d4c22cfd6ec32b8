// out[r] = sum over j of a[r, j] b[r, j]. A workgroup a row.
#import grid
#import reduce

struct Params { grid: Grid, cols: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    var sum = 0.0;
    for (var j = local; j < params.cols; j += WORKGROUP) {
        sum += a[row * params.cols + j] * b[row * params.cols + j];
    }
    let total = reduce_sum(local, sum);
    if local == 0u {
        out[row] = total;
    }
}
