// Some rows of a matrix of `width` columns: their places, each once, and what they are multiplied by.
struct Params { grid: Grid, len: u32, width: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// Where element `index` of the listed rows lies in the matrix.
fn in_matrix(index: u32) -> u32 {
    let row = index / params.width;
    return places[row] * params.width + (index - row * params.width);
}

fn scale(index: u32) -> f32 {
    return scales[index / params.width];
}
