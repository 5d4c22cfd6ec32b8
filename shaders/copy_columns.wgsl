// dst[r, dst_first + i] = src[r, src_first + i] for i below count, 0 in other columns of the span; four elements per invocation.
#import grid

struct Params {
    grid: Grid,
    len: u32,
    // Columns of dst that are written, and the first of them.
    span: u32,
    start: u32,
    count: u32,
    src_width: u32,
    src_first: u32,
    dst_width: u32,
    dst_first: u32,
    accumulate: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> src: array<f32>;
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;

fn copy(index: u32) {
    let row = index / params.span;
    let column = params.start + (index - row * params.span);
    let at = row * params.dst_width + column;
    var value = 0.0;
    // wraps where the column is before the first
    let place = column - params.dst_first;
    if place < params.count {
        value = src[row * params.src_width + params.src_first + place];
    }
    if params.accumulate != 0u {
        value += dst[at];
    }
    dst[at] = value;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            copy(index);
        }
    }
}
