// dv = sum over queries of p dout, dk = sum of p (dout . v - delta) slope q, over all heads that share the keys;
// a workgroup per (sequence, kv head, 16 keys). Here the own rows are keys and the others queries.
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
    let blocks = (params.seq_len + OWN_ROWS - 1u) / OWN_ROWS;
    let first_key = (group % blocks) * OWN_ROWS;
    let kv_head = (group / blocks) % params.kv_heads;
    let sequence = group / (blocks * params.kv_heads);
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
            var changes = vec2<f32>();
            for (var slice = 0u; slice < slices(); slice++) {
                let quad = slice * SLICE + lane;
                put_own(local, k_at(sequence, key, kv_head, quad));
                put_other(local, 0u, q_at(sequence, first_query + row, head, quad));
                put_other(local, 1u, q_at(sequence, first_query + row + 16u, head, quad));
                workgroupBarrier();
                products = dot_staged(local, products);
                workgroupBarrier();
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
            for (var slice = 0u; slice < slices(); slice++) {
                let part = mix_dout(local, sequence, head, first_query, slice);
                switch slice {
                    case 0u: { v0 += part; }
                    case 1u: { v1 += part; }
                    case 2u: { v2 += part; }
                    default: { v3 += part; }
                }
            }
            put_tile(local, probability * (changes - vec2<f32>(near.y, far.y)) * slopes(score));
            workgroupBarrier();
            for (var slice = 0u; slice < slices(); slice++) {
                let part = mix_q(local, sequence, head, first_query, slice);
                switch slice {
                    case 0u: { k0 += part; }
                    case 1u: { k1 += part; }
                    case 2u: { k2 += part; }
                    default: { k3 += part; }
                }
            }
        }
    }
    if key >= params.seq_len {
        return;
    }
    let base = kv_index(sequence, key, kv_head, 0u);
    if lane < params.quads {
        dk[base + lane] = k0;
        dv[base + lane] = v0;
    }
    if lane + SLICE < params.quads {
        dk[base + lane + SLICE] = k1;
        dv[base + lane + SLICE] = v1;
    }
    if lane + 2u * SLICE < params.quads {
        dk[base + lane + 2u * SLICE] = k2;
        dv[base + lane + 2u * SLICE] = v2;
    }
    if lane + 3u * SLICE < params.quads {
        dk[base + lane + 3u * SLICE] = k3;
        dv[base + lane + 3u * SLICE] = v3;
    }
}
