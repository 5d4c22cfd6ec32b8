// Rounding a block of columns again. Twin: `src/quant/recode.rs`.
//
// A workgroup holds the blocks of ROWS rows, each row with as many invocations. The importing shader declares ROWS, UNIT
// (columns that are rounded together), imports the decoder of the type, and says how its scales change (see `refit`).
#import grid
#import ratio
#import refit

struct Params {
    grid: Grid,
    rows: u32,
    // Where the first row is in the targets, originals and errors.
    first_row: u32,
    // Columns of the errors, and the first of the block.
    cols: u32,
    first: u32,
    // Where the first block is.
    first_word: u32,
    // Whether the errors are those of the codes in the blocks: scales then are fitted to these codes, and codewords only replaced
    // by better ones.
    coded: u32,
    pad_0: u32,
    pad_1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> target_values: array<f32>;
@group(0) @binding(2) var<storage, read> originals: array<f32>;
@group(0) @binding(3) var<storage, read> coupling: array<f32>;
@group(0) @binding(4) var<storage, read_write> error_values: array<f32>;
@group(0) @binding(5) var<storage, read_write> blocks: array<u32>;

const LANES: u32 = 64u;
// Invocations of a row.
const PER_ROW: u32 = LANES / ROWS;
// From row to row, so that rows are apart in the banks of memory.
const STRIDE: u32 = BLOCK_LEN + PER_ROW;

var<workgroup> targets: array<f32, ROWS * STRIDE>;
var<workgroup> errors: array<f32, ROWS * STRIDE>;
// By how much the errors of the unit have changed.
var<workgroup> moved: array<f32, ROWS * UNIT>;
// The blocks, for decoders, and after them the same with a scale turned.
var<workgroup> weights: array<u32, 2u * ROWS * BLOCK_WORDS>;
// The blocks while their codes change.
var<workgroup> image: array<atomic<u32>, ROWS * BLOCK_WORDS>;

fn is_inside(group: u32, row: u32) -> bool {
    return group * ROWS + row < params.rows;
}

// Where the blocks of the workgroup begin.
fn first_word(group: u32) -> u32 {
    return params.first_word + group * ROWS * BLOCK_WORDS;
}

fn original_at(group: u32, row: u32, j: u32) -> u32 {
    return (params.first_row + group * ROWS + row) * BLOCK_LEN + j;
}

fn error_at(group: u32, row: u32, j: u32) -> u32 {
    return (params.first_row + group * ROWS + row) * params.cols + params.first + j;
}

// Rows past the end are zero.
fn original(group: u32, row: u32, j: u32) -> f32 {
    if is_inside(group, row) {
        return originals[original_at(group, row, j)];
    }
    return 0.0;
}

// The error that the column came with.
fn error(group: u32, row: u32, j: u32) -> f32 {
    if is_inside(group, row) {
        return error_values[error_at(group, row, j)];
    }
    return 0.0;
}

// Every invocation of the workgroup must call it.
fn load(group: u32, local: u32) {
    for (var i = local; i < ROWS * BLOCK_LEN; i += LANES) {
        let row = i / BLOCK_LEN;
        let j = i % BLOCK_LEN;
        var wanted = 0.0;
        if is_inside(group, row) {
            wanted = target_values[original_at(group, row, j)];
        }
        targets[row * STRIDE + j] = wanted;
        errors[row * STRIDE + j] = error(group, row, j);
    }
    for (var i = local; i < ROWS * BLOCK_WORDS; i += LANES) {
        var word = 0u;
        if is_inside(group, i / BLOCK_WORDS) {
            word = blocks[first_word(group) + i];
        }
        weights[i] = word;
    }
    for (var i = local; i < ROWS * UNIT; i += LANES) {
        moved[i] = 0.0;
    }
    workgroupBarrier();
    if SCALES > 0u && params.coded != 0u {
        refit(group, local);
    }
    for (var i = local; i < ROWS * BLOCK_WORDS; i += LANES) {
        atomicStore(&image[i], weights[i]);
    }
    workgroupBarrier();
}

// Every invocation of the workgroup must call it.
fn store(group: u32, local: u32) {
    workgroupBarrier();
    for (var i = local; i < ROWS * BLOCK_LEN; i += LANES) {
        let row = i / BLOCK_LEN;
        let j = i % BLOCK_LEN;
        if is_inside(group, row) {
            error_values[error_at(group, row, j)] = errors[row * STRIDE + j];
        }
    }
    for (var i = local; i < ROWS * BLOCK_WORDS; i += LANES) {
        if is_inside(group, i / BLOCK_WORDS) {
            blocks[first_word(group) + i] = atomicLoad(&image[i]);
        }
    }
}

// Replaces bits of the block of a row, counted from its beginning.
fn put_bits(row: u32, at: u32, width: u32, value: u32) {
    let word = row * BLOCK_WORDS + at / 32u;
    let shift = at % 32u;
    let mask = (1u << width) - 1u;
    atomicAnd(&image[word], ~(mask << shift));
    atomicOr(&image[word], (value & mask) << shift);
    if shift + width > 32u {
        let rest = 32u - shift;
        atomicAnd(&image[word + 1u], ~(mask >> rest));
        atomicOr(&image[word + 1u], (value & mask) >> rest);
    }
}

// Gives column j a value, and returns by how much its error has changed.
fn settle(group: u32, row: u32, j: u32, value: f32) -> f32 {
    let error = originals[original_at(group, row, j)] - value;
    let change = error - errors[row * STRIDE + j];
    errors[row * STRIDE + j] = error;
    return change;
}

// Moves the targets of the columns after the unit that begins at `start`. Every invocation must call it.
fn pass_on(row: u32, lane: u32, start: u32) {
    workgroupBarrier();
    for (var k = start + UNIT + lane; k < BLOCK_LEN; k += PER_ROW) {
        var wanted = targets[row * STRIDE + k];
        for (var n = 0u; n < UNIT; n++) {
            wanted += opaque(moved[row * UNIT + n] * coupling[(start + n) * BLOCK_LEN + k]);
        }
        targets[row * STRIDE + k] = wanted;
    }
    workgroupBarrier();
}
