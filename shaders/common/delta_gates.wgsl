// What both ways of the gates of the delta rule read: for each token and head.
#import sigmoid

struct Params { grid: Grid, len: u32, heads: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> alpha: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read> rate: array<f32>;
@group(0) @binding(4) var<storage, read> shift: array<f32>;

// Where the decay of an element is; its step is `heads` behind.
fn decay_index(index: u32) -> u32 {
    let row = index / params.heads;
    return index + row * params.heads;
}
