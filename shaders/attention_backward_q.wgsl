// dq = sum over keys of p (dout . v - delta) slope k; a workgroup per (sequence, head, 16 queries, part of the keys).
#import grid
#import attention
#import attention_backward

@group(0) @binding(6) var<storage, read_write> dq: array<vec4<f32>>;

fn mix_slice(local: u32, sequence: u32, kv_head: u32, first_key: u32, slice: u32) -> vec4<f32> {
    let row = local / 16u;
    let quad = slice * SLICE + local % 16u;
    put_other(local, 0u, k_at(sequence, first_key + row, kv_head, quad));
    put_other(local, 1u, k_at(sequence, first_key + row + 16u, kv_head, quad));
    workgroupBarrier();
    let mixed = mix_staged(local);
    workgroupBarrier();
    return mixed;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    let part = group % parts(params.quads);
    let whole = group / parts(params.quads);
    let blocks = (params.seq_len + OWN_ROWS - 1u) / OWN_ROWS;
    let first_query = (whole % blocks) * OWN_ROWS;
    let head = (whole / blocks) % params.heads;
    let sequence = whole / (blocks * params.heads);
    let kv_head = head / (params.heads / params.kv_heads);
    let row = local / 16u;
    let lane = local % 16u;
    let query = first_query + row;
    let known = stats_at(sequence, query, head);
    let end = min(first_query + OWN_ROWS, params.seq_len);
    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var first_key = first_key_tile(first_query); first_key < end; first_key += OTHER_ROWS) {
        let products = query_products(local, sequence, head, query, first_key);
        var changes = vec2<f32>();
        for (var slice = 0u; slice < slices(params.value_quads); slice++) {
            let quad = slice * SLICE + lane;
            put_own(local, dout_at(sequence, query, head, quad));
            put_other(local, 0u, v_at(sequence, first_key + row, kv_head, quad));
            put_other(local, 1u, v_at(sequence, first_key + row + 16u, kv_head, quad));
            workgroupBarrier();
            changes = dot_staged(local, changes);
            workgroupBarrier();
        }
        let key = first_key + lane;
        let seen = vec2<bool>(sees(query, key), sees(query, key + 16u));
        let score = scores_of(products);
        let probability = select(vec2<f32>(), exp_of(score - known.x), seen);
        put_tile(local, probability * (changes - known.y) * slopes(score));
        workgroupBarrier();
        for (var slice = 0u; slice < part_slices(params.quads, part); slice++) {
            let more = mix_slice(local, sequence, kv_head, first_key, part * PART_SLICES + slice);
            switch slice {
                case 0u: { sum0 += more; }
                case 1u: { sum1 += more; }
                case 2u: { sum2 += more; }
                default: { sum3 += more; }
            }
        }
    }
    if query >= params.seq_len {
        return;
    }
    let quad = part * PART_SLICES * SLICE + lane;
    let base = query_row(sequence, query, head) * params.quads;
    if quad < params.quads {
        dq[base + quad] = sum0;
    }
    if quad + SLICE < params.quads {
        dq[base + quad + SLICE] = sum1;
    }
    if quad + 2u * SLICE < params.quads {
        dq[base + quad + 2u * SLICE] = sum2;
    }
    if quad + 3u * SLICE < params.quads {
        dq[base + quad + 3u * SLICE] = sum3;
    }
}
