// Recodes types whose weights are step * level + offset, with codewords for several levels: one unit of columns after the
// other. A workgroup holds one row; its invocation i is at home in column i % UNIT of the unit.
// Twin: `RecodeWords`, `Metric` and `search` of `src/quant/recode.rs`.
//
// The importing shader declares UNIT, imports `step_of` of the decoder and a book, has `choose(local, x, w, scale)` (the
// cheapest codes for its column's x, whose error counts w) and `value_of(choice, n, scale)` from a coder, says how its scales
// change (see `refit`), and gives `put_word(unit, choice)`, which packs the codes and the `numbers` of their words.
const ROWS: u32 = 1u;
const DESCENTS: u32 = 3u;
#import recode
#import codeword_search_shared

@group(0) @binding(7) var<storage, read> metric: array<f32>;

// The codes of a unit.
struct Choice {
    words: vec2<u32>,
    signs: u32,
}

struct Best {
    choice: Choice,
    // What this invocation's column decodes to, less the offset.
    value: f32,
    // Whether the code in the block is at least as good.
    is_kept: bool,
}

// M (target - value) of the column of this invocation, and the cost of that difference for the unit.
struct Pull {
    own: f32,
    cost: f32,
}

// The row of the metric of this invocation's column, its diagonal, and a diagonal that is nowhere less than the metric.
var<private> metric_row: array<f32, UNIT>;
var<private> diagonal: f32;
var<private> majorant: f32;
var<workgroup> misses: array<f32, UNIT>;
var<workgroup> costs: array<f32, UNIT>;
var<workgroup> improves: u32;

fn metric_at(start: u32, n: u32, m: u32) -> f32 {
    return metric[(start + n) * UNIT + m];
}

fn load_metric(start: u32, n: u32) {
    var largest = 0.0;
    for (var m = 0u; m < UNIT; m++) {
        largest = max(largest, metric_at(start, m, m));
    }
    let scale = reciprocal(largest);
    diagonal = max(metric_at(start, n, n) * scale, 1e-12);
    // correlations, summed: Gershgorin's bound for the matrix scaled to a unit diagonal
    var sum = 0.0;
    for (var m = 0u; m < UNIT; m++) {
        metric_row[m] = metric_at(start, n, m) * scale;
        let other = max(metric_at(start, m, m) * scale, 1e-12);
        sum += abs(metric_row[m]) / sqrt(diagonal * other);
    }
    majorant = diagonal * max(sum, 1.0);
}

fn pull_of(local: u32, miss: f32) -> Pull {
    if local < UNIT {
        misses[local] = miss;
    }
    workgroupBarrier();
    var pull = Pull(0.0, 0.0);
    for (var m = 0u; m < UNIT; m++) {
        pull.own += opaque(metric_row[m] * misses[m]);
    }
    if local < UNIT {
        costs[local] = opaque(pull.own * miss);
    }
    workgroupBarrier();
    for (var m = 0u; m < UNIT; m++) {
        pull.cost += costs[m];
    }
    return pull;
}

// A cheap code under the whole metric: the current one or that of the diagonal, then steps that each lower the cost (of a
// separable bound).
fn search(local: u32, wanted: f32, current: f32, scale: f32) -> Best {
    let n = local % UNIT;
    let choice = choose(local, wanted, diagonal, scale);
    var best = Best(choice, value_of(choice, n, scale), false);
    var pull = pull_of(local, wanted - best.value);
    if params.coded != 0u {
        let current_pull = pull_of(local, wanted - current);
        if current_pull.cost <= pull.cost {
            best = Best(choice, current, true);
            pull = current_pull;
        }
    }
    for (var descent = 0u; descent < DESCENTS; descent++) {
        let trial = choose(local, best.value + pull.own / majorant, majorant, scale);
        let value = value_of(trial, n, scale);
        let trial_pull = pull_of(local, wanted - value);
        if local == 0u {
            improves = u32(trial_pull.cost < pull.cost);
        }
        if workgroupUniformLoad(&improves) == 0u {
            break;
        }
        best = Best(trial, value, false);
        pull = trial_pull;
    }
    return best;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    load(row, local);
    let n = local % UNIT;
    for (var start = 0u; start < BLOCK_LEN; start += UNIT) {
        let step = step_of(0u, start);
        load_metric(start, n);
        let current = originals[original_at(row, 0u, start + n)] - errors[start + n] - step.y;
        let best = search(local, targets[start + n] - step.y, current, step.x);
        if local < UNIT {
            moved[local] = settle(row, 0u, start + local, best.value + step.y);
        }
        find_number(local, best.choice.words.x, 0u);
        find_number(local, best.choice.words.y, 1u);
        pass_on(0u, local, start);
        if local == 0u && !best.is_kept {
            put_word(start / UNIT, best.choice);
        }
    }
    store(row, local);
}
