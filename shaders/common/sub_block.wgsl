// What every encoder shares: an invocation holds one sub-block, a workgroup 64 of them, which are whole blocks.
// The importing shader declares SUB (weights of a sub-block), SUBS (sub-blocks of a block) and BLOCK_WORDS.
// The twin is `src/quant/lanes.rs`: the same f32 operations in the same order. Products that feed an addition go
// through `opaque`, so that no compiler fuses the two.
#import grid
#import f16
#import ratio

struct Params {
    grid: Grid,
    cols: u32,
    // Sub-blocks of this dispatch, and how many come before it in `values`.
    subs: u32,
    first_sub: u32,
    // Where the first block goes.
    first_word: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read> importance: array<f32>;
@group(0) @binding(3) var<storage, read_write> blocks: array<u32>;

const LANES: u32 = 64u;
const IMAGE_WORDS: u32 = LANES / SUBS * BLOCK_WORDS;

// The weights of this invocation's sub-block, and their importance.
var<private> x: array<f32, SUB>;
var<private> w: array<f32, SUB>;
// The blocks of this workgroup while their bits gather.
var<workgroup> image: array<atomic<u32>, IMAGE_WORDS>;
var<workgroup> largest_of: array<f32, LANES>;

// NaN and dust become zero, infinities the largest searched magnitude.
fn sanitize(value: f32) -> f32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7FFFFFFFu;
    if magnitude > 0x7F800000u || magnitude <= 0x21800000u {
        return 0.0;
    }
    return bitcast<f32>((bits & 0x80000000u) | min(magnitude, 0x4E800000u));
}

// Loads the sub-block of this invocation; past the end it is zero. Every invocation of the workgroup must call it.
fn load(group: u32, local: u32) {
    load_strided(group, local, (params.first_sub + group * LANES + local) * SUB, 1u);
}

// The same, but the sub-blocks of a block take turns: weight i of the block is in sub-block i % SUBS.
fn load_interleaved(group: u32, local: u32) {
    let lane = local % SUBS;
    load_strided(group, local, (params.first_sub + group * LANES + local - lane) * SUB + lane, SUBS);
}

fn load_strided(group: u32, local: u32, start: u32, stride: u32) {
    for (var i = local; i < IMAGE_WORDS; i += LANES) {
        atomicStore(&image[i], 0u);
    }
    let sub = group * LANES + local;
    let inside = sub < params.subs;
    let column = start % params.cols;
    var largest = select(1.0, 0.0, inside);
    for (var n = 0u; n < SUB; n++) {
        x[n] = 0.0;
        w[n] = 1.0;
        if inside {
            x[n] = sanitize(values[start + n * stride]);
            let bits = bitcast<u32>(importance[column + n * stride]);
            w[n] = bitcast<f32>(select(0u, bits, bits <= 0x7F7FFFFFu));
            largest = max(largest, w[n]);
        }
    }
    largest_of[local] = largest;
    workgroupBarrier();
    let first = local - local % SUBS;
    for (var b = 0u; b < SUBS; b++) {
        largest = max(largest, largest_of[first + b]);
    }
    // a power of two brings the largest importance of the block near 1
    let exponent = bitcast<u32>(largest) >> 23u;
    let usable = exponent >= 2u && exponent <= 252u;
    let factor = bitcast<f32>((254u - min(exponent, 254u)) << 23u);
    for (var n = 0u; n < SUB; n++) {
        w[n] = select(1.0, max(w[n] * factor, 1e-12), usable);
    }
}

// Adds bits to a word of the block of this invocation.
fn put(local: u32, word: u32, bits: u32) {
    atomicOr(&image[local / SUBS * BLOCK_WORDS + word], bits);
}

fn put_byte(local: u32, position: u32, byte: u32) {
    put(local, position / 4u, byte << (8u * (position % 4u)));
}

// Writes the blocks of the workgroup. Every invocation must call it.
fn store(group: u32, local: u32) {
    workgroupBarrier();
    let first = group * IMAGE_WORDS;
    let end = params.subs / SUBS * BLOCK_WORDS;
    for (var i = local; i < IMAGE_WORDS && first + i < end; i += LANES) {
        blocks[params.first_word + first + i] = atomicLoad(&image[i]);
    }
}

// Smallest (x) and largest (y) weight of the sub-block.
fn range_of() -> vec2<f32> {
    var low = x[0];
    var high = x[0];
    for (var n = 1u; n < SUB; n++) {
        low = min(low, x[n]);
        high = max(high, x[n]);
    }
    return vec2<f32>(low, high);
}

fn largest_magnitude() -> f32 {
    let range = range_of();
    return max(-range.x, range.y);
}

// Candidates `first + i * step`, `count` of them.
struct Trials {
    first: f32,
    step: f32,
    count: u32,
}

fn trial(trials: Trials, i: u32) -> f32 {
    return trials.first + opaque(f32(i) * trials.step);
}
