// Rotates pairs of elements of each head in place; four pairs per invocation.
#import grid

struct Params {
    grid: Grid,
    pairs: u32,
    seq_len: u32,
    heads: u32,
    head_dim: u32,
    half: u32,
    neox: u32,
    inverse: u32,
    pad: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
// Cosine and sine, [seq_len][half].
@group(0) @binding(1) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

fn rotate(index: u32) {
    let pair = index % params.half;
    let head = index / params.half;
    let position = (head / params.heads) % params.seq_len;
    let angle = table[position * params.half + pair];
    let sin = select(angle.y, -angle.y, params.inverse != 0u);
    let base = head * params.head_dim;
    let first = base + select(2u * pair, pair, params.neox != 0u);
    let second = first + select(1u, params.half, params.neox != 0u);
    let a = x[first];
    let b = x[second];
    x[first] = a * angle.x - b * sin;
    x[second] = a * sin + b * angle.x;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.pairs {
            rotate(index);
        }
    }
}
