// dx = dy s, dgate = dy x s (1 - s), summed over the row where it has one gate; a workgroup per row.
#import grid
#import reduce
#import sigmoid_gate

@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<storage, read_write> dgate: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let base = row * params.width;
    let is_shared = params.gate_width == 1u;
    var sum = 0.0;
    for (var i = local; i < params.width; i += WORKGROUP) {
        let s = opening(row, i);
        let product = dy[base + i] * x[base + i] * s * (1.0 - s);
        dx[base + i] = dy[base + i] * s;
        if is_shared {
            sum += product;
        } else {
            dgate[base + i] = product;
        }
    }
    if is_shared {
        let total = reduce_sum(local, sum);
        if local == 0u {
            dgate[row] = total;
        }
    }
}
