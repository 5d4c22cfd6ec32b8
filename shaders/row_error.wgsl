// What a quantized row loses: sum h dw^2 and sum mean dw over its columns. A workgroup a row.
#import grid
#import reduce

struct Params { grid: Grid, cols: u32, first_row: u32, weight_row: u32, pad: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> importance: array<f32>;
@group(0) @binding(4) var<storage, read> mean: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

#import weight

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    var squares = 0.0;
    var shift = 0.0;
    for (var j = local; j < params.cols; j += WORKGROUP) {
        let block = ((params.weight_row + row) * (params.cols / BLOCK_LEN) + j / BLOCK_LEN) * BLOCK_WORDS;
        let miss = decode(block, j % BLOCK_LEN) - x[(params.first_row + row) * params.cols + j];
        squares += importance[j] * miss * miss;
        shift += mean[j] * miss;
    }
    let total = reduce_sum(local, squares);
    let total_shift = reduce_sum(local, shift);
    if local == 0u {
        out[2u * (params.first_row + row)] = total;
        out[2u * (params.first_row + row) + 1u] = total_shift;
    }
}
