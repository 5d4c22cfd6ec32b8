// Adds sums of x^2 and x per column; 32 columns per workgroup, 8 invocations share a column.
#import grid

struct Params { grid: Grid, n: u32, k: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

var<workgroup> partial: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    let column = group * 32u + local % 32u;
    var total = vec2<f32>();
    if column < params.k {
        for (var row = local / 32u; row < params.n; row += 8u) {
            let value = x[row * params.k + column];
            total += vec2<f32>(value * value, value);
        }
    }
    partial[local] = total;
    workgroupBarrier();
    if local < 32u && column < params.k {
        for (var i = 1u; i < 8u; i++) {
            total += partial[local + 32u * i];
        }
        sums[column] += total.x;
        sums[params.k + column] += total.y;
    }
}
