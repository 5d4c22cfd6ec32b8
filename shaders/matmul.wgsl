// y = x W^T in tiles of TILE_A tokens and TILE_B rows of W, which are decoded as they are staged.
#import grid
#import tile

struct Params {
    grid: Grid,
    n: u32,
    k: u32,
    rows: u32,
    first_row: u32,
    y_stride: u32,
    y_first: u32,
    accumulate: u32,
    has_bias: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

#import weight

fn weight_at(row: u32, column: u32) -> f32 {
    let block = (row * (params.k / BLOCK_LEN) + column / BLOCK_LEN) * BLOCK_WORDS;
    return decode(block, column % BLOCK_LEN);
}

fn stage(local: u32, first_token: u32, first_row: u32, first_k: u32) {
    for (var i = local; i < TILE_A * STEP; i += THREADS) {
        let token = first_token + i / STEP;
        let column = first_k + i % STEP;
        var value = 0.0;
        if token < params.n && column < params.k {
            value = x[token * params.k + column];
        }
        a_tile[(i % STEP) * A_STRIDE + i / STEP] = value;
    }
    for (var i = local; i < TILE_B * STEP; i += THREADS) {
        let row = first_row + i / STEP;
        let column = first_k + i % STEP;
        var value = 0.0;
        if row < params.rows && column < params.k {
            value = weight_at(params.first_row + row, column);
        }
        b_tile[(i % STEP) * B_STRIDE + i / STEP] = value;
    }
}

fn store(token: u32, row: u32, sum: vec4<f32>) {
    if token >= params.n {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if row + i < params.rows {
            let column = params.y_first + row + i;
            let at = token * params.y_stride + column;
            var value = sum[i];
            if params.has_bias != 0u {
                value += bias[column];
            }
            if params.accumulate != 0u {
                value += y[at];
            }
            y[at] = value;
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    // Neighbouring groups share a tile of W.
    let token_tiles = (params.n + TILE_A - 1u) / TILE_A;
    let first_token = (group % token_tiles) * TILE_A;
    let first_row = (group / token_tiles) * TILE_B;
    for (var first_k = 0u; first_k < params.k; first_k += STEP) {
        stage(local, first_token, first_row, first_k);
        multiply_staged(local);
    }
    store_sums(local, first_token, first_row);
}
