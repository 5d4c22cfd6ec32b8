// out = q S with S = decay S + k step (v - k decay S); a workgroup per (sequence, head, 16 columns of S).
#import grid
#import gated_delta

@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    let blocks = (params.value_dim + 15u) / 16u;
    let column = (group % blocks) * 16u + local % 16u;
    let head = (group / blocks) % params.value_heads;
    let sequence = group / (blocks * params.value_heads);
    let key_head = head / (params.value_heads / params.key_heads);
    let lane = local / 16u;
    var state = array<f32, 16>();
    var keys = array<f32, 16>();
    for (var t = 0u; t < params.seq_len; t++) {
        let token = sequence * params.seq_len + t;
        let gate = gates_at(token, head);
        var sums = vec4<f32>();
        for (var i = 0u; i < ROWS; i++) {
            let pair = query_and_key(token, key_head, lane + 16u * i);
            state[i] *= gate.x;
            keys[i] = pair.y;
            sums += vec4(pair.y * state[i], pair.x * state[i], pair.x * pair.y, 0.0);
        }
        let sum = over_lanes(local, sums);
        let delta = gate.y * (value_at(token, head, column) - sum.x);
        for (var i = 0u; i < ROWS; i++) {
            state[i] += keys[i] * delta;
        }
        if lane == 0u && column < params.value_dim {
            out[value_index(token, head, column)] = sum.y + sum.z * delta;
        }
    }
}
