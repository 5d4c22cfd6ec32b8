// What the attention kernels share: 16 rows of their own (queries, or keys backwards) against 32 others at a time,
// staged in slices of 64 elements of a head. Invocation (row, lane) = (local / 16, local % 16) of 256.
// What comes out is summed up in registers, a part of 4 slices per workgroup: where a head is wider, several workgroups
// make the same scores.
// Queries and keys are counted from the start of their sequence.
struct Params {
    grid: Grid,
    seq_len: u32,
    heads: u32,
    kv_heads: u32,
    // vec4s per head of queries and keys.
    quads: u32,
    // vec4s per head of values and of the output.
    value_quads: u32,
    // A query sees this many keys, its own included.
    window: u32,
    scale: f32,
    // A scaled score s becomes softcap tanh(s / softcap), unless this is 0.
    softcap: f32,
    has_sinks: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;

const OWN_ROWS: u32 = 16u;
const OTHER_ROWS: u32 = 32u;
const SLICE: u32 = 16u;
const PART_SLICES: u32 = 4u;
// One more than a slice, against bank conflicts.
const STRIDE: u32 = 17u;
const TILE_STRIDE: u32 = 33u;
const MASKED: f32 = -1e30;

var<workgroup> own: array<vec4<f32>, 272>;
var<workgroup> other: array<vec4<f32>, 544>;
// Scores, probabilities or their gradients: [own row][other row].
var<workgroup> tile: array<f32, 528>;

// Which head of which query, counted over all.
fn query_row(sequence: u32, query: u32, head: u32) -> u32 {
    return (sequence * params.seq_len + query) * params.heads + head;
}

fn key_row(sequence: u32, key: u32, kv_head: u32) -> u32 {
    return (sequence * params.seq_len + key) * params.kv_heads + kv_head;
}

fn q_at(sequence: u32, query: u32, head: u32, quad: u32) -> vec4<f32> {
    if query < params.seq_len && quad < params.quads {
        return q[query_row(sequence, query, head) * params.quads + quad];
    }
    return vec4<f32>();
}

fn k_at(sequence: u32, key: u32, kv_head: u32, quad: u32) -> vec4<f32> {
    if key < params.seq_len && quad < params.quads {
        return k[key_row(sequence, key, kv_head) * params.quads + quad];
    }
    return vec4<f32>();
}

fn v_at(sequence: u32, key: u32, kv_head: u32, quad: u32) -> vec4<f32> {
    if key < params.seq_len && quad < params.value_quads {
        return v[key_row(sequence, key, kv_head) * params.value_quads + quad];
    }
    return vec4<f32>();
}

fn sees(query: u32, key: u32) -> bool {
    return query < params.seq_len && key <= query && query - key < params.window;
}

// The first key that any query from `query` on sees, rounded down to a whole tile.
fn first_key_tile(query: u32) -> u32 {
    let first = select(0u, query + 1u - params.window, query + 1u > params.window);
    return first / OTHER_ROWS * OTHER_ROWS;
}

fn slices(quads: u32) -> u32 {
    return (quads + SLICE - 1u) / SLICE;
}

fn parts(quads: u32) -> u32 {
    return (slices(quads) + PART_SLICES - 1u) / PART_SLICES;
}

// Slices of a part, of which a narrower head may have none.
fn part_slices(quads: u32, part: u32) -> u32 {
    let before = part * PART_SLICES;
    return min(max(slices(quads), before) - before, PART_SLICES);
}

fn put_own(local: u32, value: vec4<f32>) {
    own[(local / 16u) * STRIDE + local % 16u] = value;
}

// Half 0 is other row local / 16, half 1 the one 16 rows later.
fn put_other(local: u32, half: u32, value: vec4<f32>) {
    other[(local / 16u + 16u * half) * STRIDE + local % 16u] = value;
}

fn put_tile(local: u32, pair: vec2<f32>) {
    let at = (local / 16u) * TILE_STRIDE + local % 16u;
    tile[at] = pair.x;
    tile[at + 16u] = pair.y;
}

// Adds the products of the own row with the other rows `lane` and `lane + 16` over the staged slice.
fn dot_staged(local: u32, before: vec2<f32>) -> vec2<f32> {
    var pair = before;
    let a = (local / 16u) * STRIDE;
    let b = (local % 16u) * STRIDE;
    for (var i = 0u; i < SLICE; i++) {
        let mine = own[a + i];
        pair += vec2<f32>(dot(mine, other[b + i]), dot(mine, other[b + 16u * STRIDE + i]));
    }
    return pair;
}

// The other rows of the staged slice weighted by the tile: elements 4 lane .. of the slice for the own row.
fn mix_staged(local: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    let a = (local / 16u) * TILE_STRIDE;
    let lane = local % 16u;
    for (var j = 0u; j < OTHER_ROWS; j++) {
        sum += tile[a + j] * other[j * STRIDE + lane];
    }
    return sum;
}

// Products of the own query with the keys `first_key + lane` and 16 later.
fn query_products(local: u32, sequence: u32, head: u32, query: u32, first_key: u32) -> vec2<f32> {
    let row = local / 16u;
    let kv_head = head / (params.heads / params.kv_heads);
    var products = vec2<f32>();
    for (var slice = 0u; slice < slices(params.quads); slice++) {
        let quad = slice * SLICE + local % 16u;
        put_own(local, q_at(sequence, query, head, quad));
        put_other(local, 0u, k_at(sequence, first_key + row, kv_head, quad));
        put_other(local, 1u, k_at(sequence, first_key + row + 16u, kv_head, quad));
        workgroupBarrier();
        products = dot_staged(local, products);
        workgroupBarrier();
    }
    return products;
}

// Scores of products, capped without ever making an infinity.
fn scores_of(products: vec2<f32>) -> vec2<f32> {
    let scores = products * params.scale;
    if params.softcap == 0.0 {
        return scores;
    }
    let small = exp(-2.0 * abs(scores / params.softcap));
    return params.softcap * sign(scores) * (1.0 - small) / (1.0 + small);
}

// What a change of a product does to its score.
fn slopes(scores: vec2<f32>) -> vec2<f32> {
    if params.softcap == 0.0 {
        return vec2<f32>(params.scale);
    }
    let share = scores / params.softcap;
    return params.scale * (1.0 - share * share);
}

// exp of what is at most 0, though rounding may say otherwise where scores are huge.
fn exp_of(exponents: vec2<f32>) -> vec2<f32> {
    return exp(min(exponents, vec2<f32>()));
}
