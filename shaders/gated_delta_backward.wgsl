// The gradients of the gated delta rule; a workgroup per (sequence, key head), for one of the heads that share the keys and 16 columns
// of its state. The states are computed again: first those before every segment; then, from the last segment on, all of one.
#import grid
#import gated_delta

@group(0) @binding(4) var<storage, read> dout: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqk: array<f32>;
@group(0) @binding(6) var<storage, read_write> dv: array<f32>;
@group(0) @binding(7) var<storage, read_write> dgates: array<f32>;
// Slots of the workgroup, a state in each: those before every segment, then those before every token of one.
@group(0) @binding(8) var<storage, read_write> kept: array<f32>;

var<private> state: array<f32, 16>;
// Of the state behind the token.
var<private> gradient: array<f32, 16>;
var<private> keys: array<f32, 16>;

// Whose gradients these are.
struct Place { local: u32, lane: u32, group: u32, sequence: u32, key_head: u32, head: u32, column: u32 }

fn segments() -> u32 {
    return (params.seq_len + params.segment - 1u) / params.segment;
}

fn kept_index(place: Place, slot: u32, i: u32) -> u32 {
    return ((place.group * (segments() + params.segment) + slot) * ROWS + i) * 256u + place.local;
}

fn keep(place: Place, slot: u32) {
    for (var i = 0u; i < ROWS; i++) {
        kept[kept_index(place, slot, i)] = state[i];
    }
}

// Every invocation of the workgroup must call it: the sum over those of its lane.
fn over_columns(local: u32, value: vec4<f32>) -> vec4<f32> {
    turn ^= 256u;
    partial[turn + local] = value;
    workgroupBarrier();
    var sum = vec4<f32>();
    for (var column = 0u; column < 16u; column++) {
        sum += partial[turn + local - local % 16u + column];
    }
    return sum;
}

// The way forward through one token.
fn advance(place: Place, token: u32) {
    let gate = gates_at(token, place.head);
    var along = 0.0;
    for (var i = 0u; i < ROWS; i++) {
        keys[i] = query_and_key(token, place.key_head, place.lane + 16u * i).y;
        state[i] *= gate.x;
        along += keys[i] * state[i];
    }
    let sum = over_lanes(place.local, vec4(along, 0.0, 0.0, 0.0));
    let delta = gate.y * (value_at(token, place.head, place.column) - sum.x);
    for (var i = 0u; i < ROWS; i++) {
        state[i] += keys[i] * delta;
    }
}

// Others that share the keys, and other columns, have their own shares.
fn put(at: u32, share: f32) {
    if params.block + params.repeat > 0u {
        dqk[at] += share;
    } else {
        dqk[at] = share;
    }
}

// The way back through one token; the state before it is in a slot.
fn retreat(place: Place, token: u32, slot: u32) {
    let gate = gates_at(token, place.head);
    let is_column = place.column < params.value_dim;
    let at = value_index(token, place.head, place.column);
    var change = 0.0;
    if is_column {
        change = dout[at];
    }
    var sums = vec4<f32>();
    for (var i = 0u; i < ROWS; i++) {
        let pair = query_and_key(token, place.key_head, place.lane + 16u * i);
        state[i] = gate.x * kept[kept_index(place, slot, i)];
        gradient[i] += pair.x * change;
        sums += vec4(pair.y * state[i], pair.y * gradient[i], 0.0, 0.0);
    }
    let sum = over_lanes(place.local, sums);
    let missed = value_at(token, place.head, place.column) - sum.x;
    let delta = gate.y * missed;
    let dmissed = gate.y * sum.y;
    if place.lane == 0u && is_column {
        dv[at] = dmissed;
    }
    // of the logarithm of the decay, and of the step, which all lanes of a column know
    var others = vec2(0.0, select(0.0, sum.y * missed, place.lane == 0u));
    for (var i = 0u; i < ROWS; i++) {
        let row = place.lane + 16u * i;
        let key = query_and_key(token, place.key_head, row).y;
        let before = gradient[i] - key * dmissed;
        others.x += before * state[i];
        let dquery = params.scale * (state[i] + key * delta) * change;
        let dkey = gradient[i] * delta - state[i] * dmissed;
        let total = over_columns(place.local, vec4(dquery, dkey, 0.0, 0.0));
        if row < params.key_dim && place.local % 16u == 0u {
            let at = query_index(token, place.key_head, row);
            put(at, total.x);
            put(at + key_width(), total.y);
        }
        gradient[i] = gate.x * before;
    }
    let of_lane = over_columns(place.local, vec4(others, 0.0, 0.0));
    let total = over_lanes(place.local, of_lane);
    if place.local == 0u {
        let at = token * 2u * params.value_heads + place.head;
        if params.block > 0u {
            dgates[at] += total.x;
            dgates[at + params.value_heads] += total.y;
        } else {
            dgates[at] = total.x;
            dgates[at + params.value_heads] = total.y;
        }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    let key_head = group % params.key_heads;
    let sequence = params.first_sequence + group / params.key_heads;
    let head = key_head * (params.value_heads / params.key_heads) + params.repeat;
    let place = Place(local, local / 16u, group, sequence, key_head, head, params.block * 16u + local % 16u);
    let start = sequence * params.seq_len;
    for (var t = 0u; t < params.seq_len; t++) {
        if t % params.segment == 0u {
            keep(place, t / params.segment);
        }
        advance(place, start + t);
    }
    for (var segment = segments(); segment > 0u; segment--) {
        let first = (segment - 1u) * params.segment;
        let end = min(first + params.segment, params.seq_len);
        for (var i = 0u; i < ROWS; i++) {
            state[i] = kept[kept_index(place, segment - 1u, i)];
        }
        for (var t = first; t < end; t++) {
            keep(place, segments() + t - first);
            advance(place, start + t);
        }
        for (var t = end; t > first; t--) {
            retreat(place, start + t - 1u, segments() + t - 1u - first);
        }
    }
}
