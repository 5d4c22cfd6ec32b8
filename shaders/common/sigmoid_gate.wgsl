// What goes through gates: `gate_width` of them for each row of `width` elements, which is 1 or `width`.
#import sigmoid

struct Params { grid: Grid, len: u32, width: u32, gate_width: u32, pad: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gate: array<f32>;

// How far the gate of an element is open.
fn opening(row: u32, column: u32) -> f32 {
    return sigmoid(gate[row * params.gate_width + column % params.gate_width]);
}
