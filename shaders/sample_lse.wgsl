// First pass of sample_gradient: running maximum and sum of exponentials over tiles; a workgroup per position.
#import grid
#import reduce
#import reduce_max
#import sample

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let start = row * params.tile;
    var mine = Best(-1e30, 0u);
    for (var i = local; i < params.tile; i += WORKGROUP) {
        if z[start + i] > mine.value {
            mine = Best(z[start + i], i);
        }
    }
    let top = reduce_max(local, mine);
    var sum = 0.0;
    for (var i = local; i < params.tile; i += WORKGROUP) {
        sum += exp(z[start + i] - top.value);
    }
    sum = reduce_sum(local, sum);
    if local != 0u {
        return;
    }
    let at = row * STATE;
    let old = state[at + MAX];
    let merged = max(old, top.value);
    state[at + SUM] = state[at + SUM] * exp(old - merged) + sum * exp(top.value - merged);
    if top.value > old {
        // Kept if rounding leaves a label beyond the last cumulative sum.
        state[at + LABEL] = f32(params.first + top.index);
    }
    state[at + MAX] = merged;
}
