// Rows of H += X^T X in square tiles; of a symmetric (whole) H only the upper triangle, written twice.
#import grid
#import tile

struct Params {
    grid: Grid,
    n: u32,
    k: u32,
    // The rows of H that h holds.
    first_row: u32,
    rows: u32,
    symmetric: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> h: array<f32>;

fn x_at(token: u32, column: u32) -> f32 {
    var value = 0.0;
    if token < params.n && column < params.k {
        value = x[token * params.k + column];
    }
    return value;
}

fn stage(local: u32, first_a: u32, first_b: u32, first_token: u32) {
    for (var i = local; i < TILE_B * STEP; i += THREADS) {
        let token = first_token + i / TILE_B;
        let column = i % TILE_B;
        a_tile[(i / TILE_B) * A_STRIDE + column] = x_at(token, params.first_row + first_a + column);
        b_tile[(i / TILE_B) * B_STRIDE + column] = x_at(token, first_b + column);
    }
}

fn store(a: u32, b: u32, sum: vec4<f32>) {
    if a >= params.rows {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if b + i < params.k {
            let value = h[a * params.k + b + i] + sum[i];
            h[a * params.k + b + i] = value;
            // Inside a tile on the diagonal the mirror image is computed by another invocation.
            if params.symmetric != 0u && a / TILE_B != b / TILE_B {
                h[(b + i) * params.k + a] = value;
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    let tiles = (params.k + TILE_B - 1u) / TILE_B;
    let first_a = (group / tiles) * TILE_B;
    let first_b = (group % tiles) * TILE_B;
    if params.symmetric != 0u && first_a > first_b {
        return;
    }
    for (var first_token = 0u; first_token < params.n; first_token += STEP) {
        stage(local, first_a, first_b, first_token);
        multiply_staged(local);
    }
    store_sums(local, first_a, first_b);
}
