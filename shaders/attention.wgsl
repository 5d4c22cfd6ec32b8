// Causal attention; a workgroup per (sequence, head, 16 queries).
#import grid
#import attention
#import attention_forward

@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    let blocks = (params.seq_len + OWN_ROWS - 1u) / OWN_ROWS;
    let first_query = (group % blocks) * OWN_ROWS;
    let head = (group / blocks) % params.heads;
    let sequence = group / (blocks * params.heads);
    attend(local, sequence, head, first_query);

    let query = first_query + local / 16u;
    if query >= params.seq_len {
        return;
    }
    let lane = local % 16u;
    let base = q_index(sequence, query, head, 0u);
    if lane < params.quads {
        out[base + lane] = mixed0 / total;
    }
    if lane + SLICE < params.quads {
        out[base + lane + SLICE] = mixed1 / total;
    }
    if lane + 2u * SLICE < params.quads {
        out[base + lane + 2u * SLICE] = mixed2 / total;
    }
    if lane + 3u * SLICE < params.quads {
        out[base + lane + 3u * SLICE] = mixed3 / total;
    }
}
