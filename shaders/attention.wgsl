// Causal attention; a workgroup per (sequence, head, 16 queries, part of the values).
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
    let part = group % parts(params.value_quads);
    let whole = group / parts(params.value_quads);
    let blocks = (params.seq_len + OWN_ROWS - 1u) / OWN_ROWS;
    let first_query = (whole % blocks) * OWN_ROWS;
    let head = (whole / blocks) % params.heads;
    let sequence = whole / (blocks * params.heads);
    attend(local, sequence, head, first_query, part);

    let query = first_query + local / 16u;
    if query >= params.seq_len {
        return;
    }
    let quad = part * PART_SLICES * SLICE + local % 16u;
    let base = query_row(sequence, query, head) * params.value_quads;
    if quad < params.value_quads {
        out[base + quad] = mixed0 / total;
    }
    if quad + SLICE < params.value_quads {
        out[base + quad + SLICE] = mixed1 / total;
    }
    if quad + 2u * SLICE < params.value_quads {
        out[base + quad + 2u * SLICE] = mixed2 / total;
    }
    if quad + 3u * SLICE < params.value_quads {
        out[base + quad + 3u * SLICE] = mixed3 / total;
    }
}
