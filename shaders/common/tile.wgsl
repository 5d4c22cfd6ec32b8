// The inside of a matrix product: c[a][b] = sum over s of a_tile[s][a] * b_tile[s][b], 8 x 4 results per invocation.
// The importing shader stages both tiles, calls multiply_staged, repeats, and calls store_sums, which hands every
// result to its function store(a, b, four neighbours along b).
override TILE_A: u32 = 128u;
override THREADS: u32 = TILE_A * 2u;
const TILE_B: u32 = 64u;
const STEP: u32 = 16u;

// Four words of padding spread a column over the banks of workgroup memory.
override A_STRIDE: u32 = TILE_A + 4u;
override A_WORDS: u32 = A_STRIDE * STEP;
const B_STRIDE: u32 = TILE_B + 4u;

var<workgroup> a_tile: array<f32, A_WORDS>;
var<workgroup> b_tile: array<f32, B_STRIDE * STEP>;

// Eight variables rather than an array: they stay in registers even where the compiler does not unroll.
var<private> sum0: vec4<f32>;
var<private> sum1: vec4<f32>;
var<private> sum2: vec4<f32>;
var<private> sum3: vec4<f32>;
var<private> sum4: vec4<f32>;
var<private> sum5: vec4<f32>;
var<private> sum6: vec4<f32>;
var<private> sum7: vec4<f32>;

fn multiply_staged(local: u32) {
    workgroupBarrier();
    for (var step = 0u; step < STEP; step++) {
        let a = step * A_STRIDE + (local / 16u) * 8u;
        let b = step * B_STRIDE + (local % 16u) * 4u;
        let four = vec4<f32>(b_tile[b], b_tile[b + 1u], b_tile[b + 2u], b_tile[b + 3u]);
        sum0 += a_tile[a] * four;
        sum1 += a_tile[a + 1u] * four;
        sum2 += a_tile[a + 2u] * four;
        sum3 += a_tile[a + 3u] * four;
        sum4 += a_tile[a + 4u] * four;
        sum5 += a_tile[a + 5u] * four;
        sum6 += a_tile[a + 6u] * four;
        sum7 += a_tile[a + 7u] * four;
    }
    workgroupBarrier();
}

fn store_sums(local: u32, first_a: u32, first_b: u32) {
    let a = first_a + (local / 16u) * 8u;
    let b = first_b + (local % 16u) * 4u;
    store(a, b, sum0);
    store(a + 1u, b, sum1);
    store(a + 2u, b, sum2);
    store(a + 3u, b, sum3);
    store(a + 4u, b, sum4);
    store(a + 5u, b, sum5);
    store(a + 6u, b, sum6);
    store(a + 7u, b, sum7);
}
