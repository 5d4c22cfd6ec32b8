// H += X^T Y in square tiles; of a symmetric H only the upper triangle, written twice.
#import grid
#import tile

struct Params {
    grid: Grid,
    n: u32,
    // Columns of the matrices, and those that take part.
    x_width: u32,
    x_first: u32,
    x_cols: u32,
    y_width: u32,
    y_first: u32,
    y_cols: u32,
    symmetric: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> h: array<f32>;

fn x_at(token: u32, column: u32) -> f32 {
    var value = 0.0;
    if token < params.n && column < params.x_cols {
        value = x[token * params.x_width + params.x_first + column];
    }
    return value;
}

fn y_at(token: u32, column: u32) -> f32 {
    var value = 0.0;
    if token < params.n && column < params.y_cols {
        value = y[token * params.y_width + params.y_first + column];
    }
    return value;
}

fn stage(local: u32, first_a: u32, first_b: u32, first_token: u32) {
    for (var i = local; i < TILE_B * STEP; i += THREADS) {
        let token = first_token + i / TILE_B;
        let column = i % TILE_B;
        a_tile[(i / TILE_B) * A_STRIDE + column] = x_at(token, first_a + column);
        b_tile[(i / TILE_B) * B_STRIDE + column] = y_at(token, first_b + column);
    }
}

fn store(a: u32, b: u32, sum: vec4<f32>) {
    if a >= params.x_cols {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if b + i < params.y_cols {
            let at = a * params.y_cols + b + i;
            let value = h[at] + sum[i];
            h[at] = value;
            // Inside a tile on the diagonal the mirror image is computed by another invocation.
            if params.symmetric != 0u && a / TILE_B != b / TILE_B {
                h[(b + i) * params.y_cols + a] = value;
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
    let tiles = (params.y_cols + TILE_B - 1u) / TILE_B;
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
