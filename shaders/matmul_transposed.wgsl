// dx = dy W in tiles of TILE_A tokens and TILE_B columns of W, which are decoded as they are staged.
#import grid
#import tile

struct Params {
    grid: Grid,
    n: u32,
    k: u32,
    rows: u32,
    first_row: u32,
    dy_stride: u32,
    dy_first: u32,
    accumulate: u32,
    pad: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

#import weight

fn weight_at(row: u32, column: u32) -> f32 {
    let block = (row * (params.k / BLOCK_LEN) + column / BLOCK_LEN) * BLOCK_WORDS;
    return decode(block, column % BLOCK_LEN);
}

fn stage(local: u32, first_token: u32, first_column: u32, first_row: u32) {
    for (var i = local; i < TILE_A * STEP; i += THREADS) {
        let token = first_token + i / STEP;
        let row = first_row + i % STEP;
        var value = 0.0;
        if token < params.n && row < params.rows {
            value = dy[token * params.dy_stride + params.dy_first + row];
        }
        a_tile[(i % STEP) * A_STRIDE + i / STEP] = value;
    }
    for (var i = local; i < TILE_B * STEP; i += THREADS) {
        let row = first_row + i / TILE_B;
        let column = first_column + i % TILE_B;
        var value = 0.0;
        if row < params.rows && column < params.k {
            value = weight_at(params.first_row + row, column);
        }
        b_tile[(i / TILE_B) * B_STRIDE + i % TILE_B] = value;
    }
}

fn store(token: u32, column: u32, sum: vec4<f32>) {
    if token >= params.n {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if column + i < params.k {
            let at = token * params.k + column + i;
            dx[at] = select(sum[i], sum[i] + dx[at], params.accumulate != 0u);
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    let token_tiles = (params.n + TILE_A - 1u) / TILE_A;
    let first_token = (group % token_tiles) * TILE_A;
    let first_column = (group / token_tiles) * TILE_B;
    for (var first_row = 0u; first_row < params.rows; first_row += STEP) {
        stage(local, first_token, first_column, first_row);
        multiply_staged(local);
    }
    store_sums(local, first_token, first_column);
}
