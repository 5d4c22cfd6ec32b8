// dx = sum over the next tokens of w dy SiLU'(their sums), which are computed again; four elements per invocation.
#import grid
#import short_conv

@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

fn gradient(index: u32) -> f32 {
    let row = index / params.channels;
    let channel = index - row * params.channels;
    let count = min(params.taps, params.seq_len - row % params.seq_len);
    var total = 0.0;
    for (var ahead = 0u; ahead < count; ahead++) {
        let at = index + ahead * params.channels;
        let sum = convolved(at);
        let s = sigmoid(sum);
        total += weight_of(channel, ahead) * dy[at] * s * (1.0 + sum * (1.0 - s));
    }
    return total;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            dx[index] = gradient(index);
        }
    }
}
