// Second pass of sample_gradient: the first label whose cumulative probability passes the position's uniform number.
// Every invocation sums a run of neighbours, the first one then walks the runs and the run that passes.
#import grid
#import sample

@group(0) @binding(3) var<storage, read> uniforms: array<f32>;

var<workgroup> runs: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let start = row * params.tile;
    let at = row * STATE;
    let largest = state[at + MAX];
    let length = (params.tile + 255u) / 256u;
    var sum = 0.0;
    for (var i = local * length; i < min((local + 1u) * length, params.tile); i++) {
        sum += exp(z[start + i] - largest);
    }
    runs[local] = sum;
    workgroupBarrier();
    if local != 0u || state[at + FOUND] != 0.0 {
        return;
    }
    let threshold = uniforms[row] * state[at + SUM];
    var cumulative = state[at + CUMULATIVE];
    for (var run = 0u; run < 256u; run++) {
        if cumulative + runs[run] > threshold {
            let end = min((run + 1u) * length, params.tile);
            var i = run * length;
            for (; i + 1u < end; i++) {
                cumulative += exp(z[start + i] - largest);
                if cumulative > threshold {
                    break;
                }
            }
            state[at + LABEL] = f32(params.first + i);
            state[at + FOUND] = 1.0;
            return;
        }
        cumulative += runs[run];
    }
    state[at + CUMULATIVE] = cumulative;
}
