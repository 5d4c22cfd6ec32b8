// Decays rate softplus(alpha + shift) and steps sigmoid(beta); four of each per invocation.
#import grid
#import delta_gates

@group(0) @binding(5) var<storage, read_write> gates: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            let head = index % params.heads;
            let x = alpha[index] + shift[head];
            let at = decay_index(index);
            gates[at] = rate[head] * (max(x, 0.0) + log(1.0 + exp(-abs(x))));
            gates[at + params.heads] = sigmoid(beta[index]);
        }
    }
}
