// All scales of a block fitted to its codes, one after the other, with the errors of all columns in view.
// Twin: `src/quant/refit.rs`.
//
// The importing shader declares SUB (weights that share a step), SCALES (how many a block has: those of the whole block, then one
// of each sub-block, then perhaps another of each) and WHOLE (how many are of the whole block), and gives
// `turn(block, scale, by)`, which changes a scale of the block at a word of `weights`: one of the whole block is multiplied by
// 1 + by, the integer of a sub-block moved by `by`. It returns the change that was made.
#import turn

// The block's own part of H.
@group(0) @binding(6) var<storage, read> moments: array<f32>;

// Where the blocks with a scale turned begin.
const TURNED: u32 = ROWS * BLOCK_WORDS;
// Columns of an invocation: lane, lane + PER_ROW, ...
const OWN: u32 = BLOCK_LEN / PER_ROW;

// Of the invocation's columns: the decoded weights, `e H` (where e are the errors of all columns of the row), and the line along
// which a scale moves the weights times H. The line itself takes the place of the errors.
var<private> values: array<f32, OWN>;
var<private> pull: array<f32, OWN>;
var<private> projection: array<f32, OWN>;
// The invocations' parts of sums, and by how much each row's scale changes.
var<workgroup> gains: array<f32, LANES>;
var<workgroup> curvatures: array<f32, LANES>;
var<workgroup> changes: array<f32, ROWS>;

// The first column that a scale moves, and the end.
fn columns_of(scale: u32) -> vec2<u32> {
    if scale < WHOLE {
        return vec2<u32>(0u, BLOCK_LEN);
    }
    let first = (scale - WHOLE) * SUB % BLOCK_LEN;
    return vec2<u32>(first, first + SUB);
}

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(opaque(x)) & 0x7F800000u) != 0x7F800000u;
}

// The line times column k of H.
fn project(row: u32, columns: vec2<u32>, k: u32) -> f32 {
    var sum = 0.0;
    for (var j = columns.x; j < columns.y; j += 4u) {
        let at = row * STRIDE + j;
        let h = j * BLOCK_LEN + k;
        sum += opaque(errors[at] * moments[h]);
        sum += opaque(errors[at + 1u] * moments[h + BLOCK_LEN]);
        sum += opaque(errors[at + 2u] * moments[h + 2u * BLOCK_LEN]);
        sum += opaque(errors[at + 3u] * moments[h + 3u * BLOCK_LEN]);
    }
    return sum;
}

fn load_pull(group: u32, row: u32, lane: u32) {
    for (var m = 0u; m < OWN; m++) {
        let j = lane + PER_ROW * m;
        let first = j - j % UNIT;
        values[m] = decode(row * BLOCK_WORDS, j);
        pull[m] = 0.0;
        for (var n = first; n < first + UNIT; n++) {
            let missed = targets[row * STRIDE + n] - original(group, row, n) + errors[row * STRIDE + n];
            pull[m] += opaque(moments[j * BLOCK_LEN + n] * missed);
        }
    }
}

// Turns a scale of the second block by one, and returns the change.
fn turn_by_one(row: u32, scale: u32) -> f32 {
    let block = TURNED + row * BLOCK_WORDS;
    let down = turn(block, scale, -1.0);
    if down == 0.0 {
        return turn(block, scale, 1.0);
    }
    return down;
}

// The line from the steps of the block to those of the turned one.
fn draw_line(row: u32, lane: u32, columns: vec2<u32>) {
    for (var m = columns.x / PER_ROW; m < (columns.y + PER_ROW - 1u) / PER_ROW; m++) {
        let j = lane + PER_ROW * m;
        if j >= columns.x && j < columns.y {
            let step = step_of(row * BLOCK_WORDS, j);
            let other = step_of(TURNED + row * BLOCK_WORDS, j);
            // without a step all levels look the same
            let stretch = ratio(other.x - step.x, step.x);
            errors[row * STRIDE + j] = opaque((values[m] - step.y) * stretch) + (other.y - step.y);
        }
    }
}

// The invocation's parts of the sums that say how the error changes along the line.
fn measure_line(local: u32, columns: vec2<u32>) {
    let row = local / PER_ROW;
    var gain = 0.0;
    var curvature = 0.0;
    for (var m = columns.x / PER_ROW; m < (columns.y + PER_ROW - 1u) / PER_ROW; m++) {
        let j = local % PER_ROW + PER_ROW * m;
        if j >= columns.x && j < columns.y {
            let line = errors[row * STRIDE + j];
            projection[m] = project(row, columns, j);
            gain += opaque(pull[m] * line);
            curvature += opaque(line * projection[m]);
        }
    }
    gains[local] = gain;
    curvatures[local] = curvature;
}

// Turns the second block's scale to where the error is lowest, and returns how many lengths of the line that is; 0 where the
// error would not fall.
fn turn_to_best(row: u32, scale: u32, unit: f32) -> f32 {
    var gain = 0.0;
    var curvature = 0.0;
    for (var i = row * PER_ROW; i < (row + 1u) * PER_ROW; i++) {
        gain += gains[i];
        curvature += curvatures[i];
    }
    // moving by t along the line lowers the error by 2 t gain - t^2 curvature
    let best = unit * gain / curvature;
    if curvature == 0.0 || !is_finite(best) {
        return 0.0;
    }
    let t = turn(TURNED + row * BLOCK_WORDS, scale, best) / unit;
    return select(0.0, t, t * (2.0 * gain - opaque(t * curvature)) > 0.0);
}

// Moves the weights along the line, and the pull where later scales need it.
fn follow(row: u32, lane: u32, scale: u32, change: f32) {
    let columns = columns_of(scale);
    let is_last_of_all = scale + BLOCK_LEN / SUB >= SCALES;
    for (var m = 0u; m < OWN; m++) {
        let k = lane + PER_ROW * m;
        let is_on_line = k >= columns.x && k < columns.y;
        if is_on_line {
            values[m] += opaque(change * errors[row * STRIDE + k]);
        }
        if k >= columns.y || !is_last_of_all {
            if !is_on_line {
                projection[m] = project(row, columns, k);
            }
            pull[m] -= opaque(change * projection[m]);
        }
    }
}

// Makes the second block of each row equal to the first, or the first to the second.
fn copy_blocks(row: u32, lane: u32, is_kept: bool) {
    for (var i = row * BLOCK_WORDS + lane; i < (row + 1u) * BLOCK_WORDS; i += PER_ROW) {
        if is_kept {
            weights[i] = weights[TURNED + i];
        } else {
            weights[TURNED + i] = weights[i];
        }
    }
}

// Sets the errors to those of the fitted blocks and moves the targets of all columns. Every invocation must call it.
fn settle_all(group: u32, row: u32, lane: u32) {
    for (var m = 0u; m < OWN; m++) {
        let j = lane + PER_ROW * m;
        values[m] = original(group, row, j) - decode(row * BLOCK_WORDS, j);
        errors[row * STRIDE + j] = values[m] - error(group, row, j);
    }
    workgroupBarrier();
    for (var m = 0u; m < OWN; m++) {
        let k = lane + PER_ROW * m;
        var wanted = targets[row * STRIDE + k];
        for (var j = 0u; j < BLOCK_LEN; j++) {
            wanted += opaque(errors[row * STRIDE + j] * coupling[j * BLOCK_LEN + k]);
        }
        targets[row * STRIDE + k] = wanted;
    }
    workgroupBarrier();
    for (var m = 0u; m < OWN; m++) {
        errors[row * STRIDE + lane + PER_ROW * m] = values[m];
    }
    workgroupBarrier();
}

// Every invocation of the workgroup must call it, after a barrier.
fn refit(group: u32, local: u32) {
    let row = local / PER_ROW;
    let lane = local % PER_ROW;
    load_pull(group, row, lane);
    copy_blocks(row, lane, false);
    for (var scale = 0u; scale < SCALES; scale++) {
        workgroupBarrier();
        var unit = 0.0;
        if lane == 0u {
            unit = turn_by_one(row, scale);
        }
        workgroupBarrier();
        draw_line(row, lane, columns_of(scale));
        workgroupBarrier();
        copy_blocks(row, lane, false);
        measure_line(local, columns_of(scale));
        workgroupBarrier();
        if lane == 0u {
            changes[row] = turn_to_best(row, scale, unit);
        }
        workgroupBarrier();
        let change = changes[row];
        copy_blocks(row, lane, change != 0.0);
        if change != 0.0 {
            follow(row, lane, scale, change);
        }
    }
    workgroupBarrier();
    settle_all(group, row, lane);
}
