// What both ways of the gated delta rule need. A workgroup has 16 columns of the state of a head: invocation `local` has
// those of its rows lane, lane + 16, ... that are in column local % 16, where lane is local / 16.
struct Params {
    grid: Grid,
    seq_len: u32,
    key_heads: u32,
    value_heads: u32,
    key_dim: u32,
    value_dim: u32,
    // Of queries.
    scale: f32,
    // Backwards: the first sequence, the block of columns, which of the heads that share keys, tokens between kept states.
    first_sequence: u32,
    block: u32,
    repeat: u32,
    segment: u32,
    pad0: u32,
    pad1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qk: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> gates: array<f32>;

// Of an invocation: the largest head has 256 rows.
override ROWS: u32 = 16u;

// Two halves that take turns, so that one barrier is enough for each sum.
var<workgroup> partial: array<vec4<f32>, 512>;
var<private> turn: u32 = 0u;

// Every invocation of the workgroup must call it: the sum over those of its column.
fn over_lanes(local: u32, value: vec4<f32>) -> vec4<f32> {
    turn ^= 256u;
    partial[turn + local] = value;
    workgroupBarrier();
    var sum = vec4<f32>();
    for (var lane = 0u; lane < 16u; lane++) {
        sum += partial[turn + lane * 16u + local % 16u];
    }
    return sum;
}

fn key_width() -> u32 {
    return params.key_heads * params.key_dim;
}

// Where a row of a query is; that of the key is `key_width` behind.
fn query_index(token: u32, key_head: u32, row: u32) -> u32 {
    return token * 2u * key_width() + key_head * params.key_dim + row;
}

// An element of a query, scaled, and one of the key; 0 where the head has no such row.
fn query_and_key(token: u32, key_head: u32, row: u32) -> vec2<f32> {
    if row >= params.key_dim {
        return vec2<f32>();
    }
    let at = query_index(token, key_head, row);
    return vec2(qk[at] * params.scale, qk[at + key_width()]);
}

fn value_index(token: u32, head: u32, column: u32) -> u32 {
    return (token * params.value_heads + head) * params.value_dim + column;
}

fn value_at(token: u32, head: u32, column: u32) -> f32 {
    if column >= params.value_dim {
        return 0.0;
    }
    return v[value_index(token, head, column)];
}

// What is kept of the state, and the step.
fn gates_at(token: u32, head: u32) -> vec2<f32> {
    let at = token * 2u * params.value_heads + head;
    return vec2(exp(gates[at]), gates[at + params.value_heads]);
}
