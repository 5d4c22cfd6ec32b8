// dv = sum over queries of p dout, dk = sum of p (dout . v - delta) slope q, over all heads that share the keys;
// a workgroup per (sequence, kv head, 16 keys, part of both). Here the own rows are keys and the others queries.
#import grid
#import attention
#import attention_backward

@group(0) @binding(6) var<storage, read_write> dk: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> dv: array<vec4<f32>>;

fn mix_q(local: u32, sequence: u32, head: u32, first_query: u32, slice: u32) -> vec4<f32> {
    let row = local / 16u;
    let quad = slice * SLICE + local % 16u;
    put_other(local, 0u, q_at(sequence, first_query + row, head, quad));
    put_other(local, 1u, q_at(sequence, first_query + row + 16u, head, quad));
    workgroupBarrier();
    let mixed = mix_staged(local);
    workgroupBarrier();
    return mixed;
}

fn mix_dout(local: u32, sequence: u32, head: u32, first_query: u32, slice: u32) -> vec4<f32> {
    let row = local / 16u;
    let quad = slice * SLICE + local % 16u;
    put_other(local, 0u, dout_at(sequence, first_query + row, head, quad));
    put_other(local, 1u, dout_at(sequence, first_query + row + 16u, head, quad));
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
    let parts_of_both = max(parts(params.quads), parts(params.value_quads));
    let part = group % parts_of_both;
    let whole = group / parts_of_both;
    let blocks = (params.seq_len + OWN_ROWS - 1u) / OWN_ROWS;
    let first_key = (whole % blocks) * OWN_ROWS;
    let kv_head = (whole / blocks) % params.kv_heads;
    let sequence = whole / (blocks * params.kv_heads);
    let sharing = params.heads / params.kv_heads;
    let row = local / 16u;
    let lane = local % 16u;
    let key = first_key + row;
    let last_key = min(first_key + OWN_ROWS, params.seq_len) - 1u;
    // The last query that sees the last key; the window is at most seq_len.
    let end = min(last_key + params.window, params.seq_len);
    var k0 = vec4<f32>();
    var k1 = vec4<f32>();
    var k2 = vec4<f32>();
    var k3 = vec4<f32>();
    var v0 = vec4<f32>();
    var v1 = vec4<f32>();
    var v2 = vec4<f32>();
    var v3 = vec4<f32>();
    for (var head = kv_head * sharing; head < (kv_head + 1u) * sharing; head++) {
        for (var first_query = first_key / OTHER_ROWS * OTHER_ROWS; first_query < end; first_query += OTHER_ROWS) {
            var products = vec2<f32>();
            for (var slice = 0u; slice < slices(params.quads); slice++) {
                let quad = slice * SLICE + lane;
                put_own(local, k_at(sequence, key, kv_head, quad));
                put_other(local, 0u, q_at(sequence, first_query + row, head, quad));
                put_other(local, 1u, q_at(sequence, first_query + row + 16u, head, quad));
                workgroupBarrier();
                products = dot_staged(local, products);
                workgroupBarrier();
            }
            var changes = vec2<f32>();
            for (var slice = 0u; slice < slices(params.value_quads); slice++) {
                let quad = slice * SLICE + lane;
                put_own(local, v_at(sequence, key, kv_head, quad));
                put_other(local, 0u, dout_at(sequence, first_query + row, head, quad));
                put_other(local, 1u, dout_at(sequence, first_query + row + 16u, head, quad));
                workgroupBarrier();
                changes = dot_staged(local, changes);
                workgroupBarrier();
            }
            let query = first_query + lane;
            let near = stats_at(sequence, query, head);
            let far = stats_at(sequence, query + 16u, head);
            let seen = vec2<bool>(sees(query, key), sees(query + 16u, key));
            let score = scores_of(products);
            let probability = select(vec2<f32>(), exp_of(score - vec2<f32>(near.x, far.x)), seen);
            put_tile(local, probability);
            workgroupBarrier();
            for (var slice = 0u; slice < part_slices(params.value_quads, part); slice++) {
                let more = mix_dout(local, sequence, head, first_query, part * PART_SLICES + slice);
                switch slice {
                    case 0u: { v0 += more; }
                    case 1u: { v1 += more; }
                    case 2u: { v2 += more; }
                    default: { v3 += more; }
                }
            }
            put_tile(local, probability * (changes - vec2<f32>(near.y, far.y)) * slopes(score));
            workgroupBarrier();
            for (var slice = 0u; slice < part_slices(params.quads, part); slice++) {
                let more = mix_q(local, sequence, head, first_query, part * PART_SLICES + slice);
                switch slice {
                    case 0u: { k0 += more; }
                    case 1u: { k1 += more; }
                    case 2u: { k2 += more; }
                    default: { k3 += more; }
                }
            }
        }
    }
    if key >= params.seq_len {
        return;
    }
    let quad = part * PART_SLICES * SLICE + lane;
    let base = key_row(sequence, key, kv_head) * params.quads;
    if quad < params.quads {
        dk[base + quad] = k0;
    }
    if quad + SLICE < params.quads {
        dk[base + quad + SLICE] = k1;
    }
    if quad + 2u * SLICE < params.quads {
        dk[base + quad + 2u * SLICE] = k2;
    }
    if quad + 3u * SLICE < params.quads {
        dk[base + quad + 3u * SLICE] = k3;
    }
    let value_base = key_row(sequence, key, kv_head) * params.value_quads;
    if quad < params.value_quads {
        dv[value_base + quad] = v0;
    }
    if quad + SLICE < params.value_quads {
        dv[value_base + quad + SLICE] = v1;
    }
    if quad + 2u * SLICE < params.value_quads {
        dv[value_base + quad + 2u * SLICE] = v2;
    }
    if quad + 3u * SLICE < params.value_quads {
        dv[value_base + quad + 3u * SLICE] = v3;
    }
}
