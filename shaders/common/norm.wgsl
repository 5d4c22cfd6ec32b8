// What both ways of a norm need of a row, which begins at `base`.
struct Params { grid: Grid, width: u32, eps: f32, centres: u32, accumulate: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;

// What is taken from every element: 0 where a norm does not centre.
fn mean_of(local: u32, base: u32) -> f32 {
    if params.centres == 0u {
        return 0.0;
    }
    var sum = 0.0;
    for (var i = local; i < params.width; i += WORKGROUP) {
        sum += x[base + i];
    }
    return reduce_sum(local, sum) / f32(params.width);
}

fn scale_of(local: u32, base: u32, mean: f32) -> f32 {
    var squares = 0.0;
    for (var i = local; i < params.width; i += WORKGROUP) {
        let value = x[base + i] - mean;
        squares += value * value;
    }
    return 1.0 / sqrt(reduce_sum(local, squares) / f32(params.width) + params.eps);
}
