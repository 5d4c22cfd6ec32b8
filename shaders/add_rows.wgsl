// out[places[i]] += scales[i] * x[i], rows of `width`; four elements per invocation.
#import grid
#import listed_rows

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            out[in_matrix(index)] += scale(index) * x[index];
        }
    }
}
