// First step backwards: per query and head the log of the softmax's denominator, and the product of dout and the output.
// A workgroup per (sequence, head, 16 queries), for all parts of the output.
#import grid
#import attention
#import attention_forward

@group(0) @binding(5) var<storage, read> dout: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec2<f32>>;

fn along(sequence: u32, query: u32, head: u32, quad: u32, mixed: vec4<f32>) -> f32 {
    if query < params.seq_len && quad < params.value_quads {
        return dot(mixed, dout[query_row(sequence, query, head) * params.value_quads + quad]);
    }
    return 0.0;
}

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
    let query = first_query + local / 16u;
    let lane = local % 16u;
    var product = 0.0;
    for (var part = 0u; part < parts(params.value_quads); part++) {
        attend(local, sequence, head, first_query, part);
        let quad = part * PART_SLICES * SLICE + lane;
        product += along(sequence, query, head, quad, mixed0);
        product += along(sequence, query, head, quad + SLICE, mixed1);
        product += along(sequence, query, head, quad + 2u * SLICE, mixed2);
        product += along(sequence, query, head, quad + 3u * SLICE, mixed3);
    }
    put_tile(local, vec2<f32>(product, 0.0));
    workgroupBarrier();
    if lane == 0u && query < params.seq_len {
        var sum = 0.0;
        for (var j = 0u; j < 16u; j++) {
            sum += tile[(local / 16u) * TILE_STRIDE + j];
        }
        stats[query_row(sequence, query, head)] = vec2<f32>(largest + log(total), sum / total);
    }
}
