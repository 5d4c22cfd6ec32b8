// Attention of 16 queries with a running softmax: the scores of one tile of keys exist at a time.
// Leaves the running maximum and sum, and the unnormalized output: slice i of the part in mixed<i>.
var<private> largest: f32;
var<private> total: f32;
var<private> mixed0: vec4<f32>;
var<private> mixed1: vec4<f32>;
var<private> mixed2: vec4<f32>;
var<private> mixed3: vec4<f32>;

// One more score for every query of a head, if there are any.
@group(0) @binding(4) var<storage, read> sinks: array<f32>;

// The weighted sum of a slice of the values.
fn mix_slice(local: u32, sequence: u32, kv_head: u32, first_key: u32, slice: u32) -> vec4<f32> {
    let row = local / 16u;
    let quad = slice * SLICE + local % 16u;
    put_other(local, 0u, v_at(sequence, first_key + row, kv_head, quad));
    put_other(local, 1u, v_at(sequence, first_key + row + 16u, kv_head, quad));
    workgroupBarrier();
    let mixed = mix_staged(local);
    workgroupBarrier();
    return mixed;
}

fn attend(local: u32, sequence: u32, head: u32, first_query: u32, part: u32) {
    let query = first_query + local / 16u;
    let kv_head = head / (params.heads / params.kv_heads);
    let end = min(first_query + OWN_ROWS, params.seq_len);
    let row = (local / 16u) * TILE_STRIDE;
    largest = MASKED;
    total = 0.0;
    if params.has_sinks != 0u {
        largest = sinks[head];
        total = 1.0;
    }
    mixed0 = vec4<f32>();
    mixed1 = vec4<f32>();
    mixed2 = vec4<f32>();
    mixed3 = vec4<f32>();
    for (var first_key = first_key_tile(first_query); first_key < end; first_key += OTHER_ROWS) {
        let key = first_key + local % 16u;
        let seen = vec2<bool>(sees(query, key), sees(query, key + 16u));
        let products = query_products(local, sequence, head, query, first_key);
        let scores = select(vec2<f32>(MASKED), scores_of(products), seen);
        put_tile(local, scores);
        workgroupBarrier();
        var highest = largest;
        for (var j = 0u; j < OTHER_ROWS; j++) {
            highest = max(highest, tile[row + j]);
        }
        workgroupBarrier();
        put_tile(local, select(vec2<f32>(), exp_of(scores - highest), seen));
        workgroupBarrier();
        let shrink = exp(largest - highest);
        largest = highest;
        total *= shrink;
        for (var j = 0u; j < OTHER_ROWS; j++) {
            total += tile[row + j];
        }
        mixed0 *= shrink;
        mixed1 *= shrink;
        mixed2 *= shrink;
        mixed3 *= shrink;
        for (var slice = 0u; slice < part_slices(params.value_quads, part); slice++) {
            let more = mix_slice(local, sequence, kv_head, first_key, part * PART_SLICES + slice);
            switch slice {
                case 0u: { mixed0 += more; }
                case 1u: { mixed1 += more; }
                case 2u: { mixed2 += more; }
                default: { mixed3 += more; }
            }
        }
    }
}
