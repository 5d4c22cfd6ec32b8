// dalpha = ddecay rate sigmoid(alpha + shift), dbeta = dstep s (1 - s); four of each per invocation.
#import grid
#import delta_gates

@group(0) @binding(5) var<storage, read> dgates: array<f32>;
@group(0) @binding(6) var<storage, read_write> dalpha: array<f32>;
@group(0) @binding(7) var<storage, read_write> dbeta: array<f32>;

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
            let at = decay_index(index);
            let s = sigmoid(beta[index]);
            dalpha[index] = dgates[at] * rate[head] * sigmoid(alpha[index] + shift[head]);
            dbeta[index] = dgates[at + params.heads] * s * (1.0 - s);
        }
    }
}
