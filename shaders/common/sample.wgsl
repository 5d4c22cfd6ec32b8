// What the passes of sample_gradient share.
struct Params { grid: Grid, tile: u32, first: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;
@group(0) @binding(2) var<storage, read_write> state: array<f32>;

// Fields of a position's state; sample_gradient.rs has the same.
const STATE: u32 = 8u;
const MAX: u32 = 0u;
const SUM: u32 = 1u;
const CUMULATIVE: u32 = 2u;
const LABEL: u32 = 3u;
const FOUND: u32 = 4u;
