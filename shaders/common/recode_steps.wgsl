// Recodes types whose weights are step * level + offset, with a code for each: one column after the other.
// Twin: `RecodeSteps` of `src/quant/recode.rs`.
//
// The importing shader imports `step_of` of the decoder and the levels (`nearest` and `code_of`), says how its scales change (see
// `refit`), and gives `put_code(row, i, code)`, which packs the code of weight i.
const UNIT: u32 = 1u;
const ROWS: u32 = 1024u / BLOCK_LEN;
#import recode

// Once all columns are rounded: their codes have taken the place of their targets.
fn code_at(row: u32, i: u32) -> u32 {
    return u32(targets[row * STRIDE + i]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let row = local / PER_ROW;
    let lane = local % PER_ROW;
    let rounds = lane == 0u && is_inside(group, row);
    var step = vec2<f32>(0.0);
    var inverse = 0.0;
    for (var j = 0u; j < BLOCK_LEN; j++) {
        if rounds {
            if j % SUB == 0u {
                step = step_of(row * BLOCK_WORDS, j);
                inverse = reciprocal(step.x);
            }
            let level = (targets[row * STRIDE + j] - step.y) * inverse;
            moved[row] = settle(group, row, j, opaque(nearest(level) * step.x) + step.y);
            targets[row * STRIDE + j] = f32(code_of(level));
        }
        pass_on(row, lane, j);
    }
    if is_inside(group, row) {
        for (var i = lane; i < BLOCK_LEN; i += PER_ROW) {
            put_code(row, i, code_at(row, i));
        }
    }
    store(group, local);
}
