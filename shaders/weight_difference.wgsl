// What quantization changed: decoded weight - x. A workgroup a row.
#import grid

struct Params { grid: Grid, cols: u32, first_row: u32, weight_row: u32, pad: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

#import weight

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    for (var j = local; j < params.cols; j += 256u) {
        let block = ((params.weight_row + row) * (params.cols / BLOCK_LEN) + j / BLOCK_LEN) * BLOCK_WORDS;
        let at = (params.first_row + row) * params.cols + j;
        out[at] = decode(block, j % BLOCK_LEN) - x[at];
    }
}
