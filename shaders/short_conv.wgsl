// y = SiLU of a sum over the last tokens, channel by channel; four elements per invocation.
#import grid
#import short_conv

@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            let sum = convolved(index);
            y[index] = sum * sigmoid(sum);
        }
    }
}
