// Running divergence statistics over one tile of the vocabulary; a workgroup per position.
// Base and quant go through the same operations in the same order, so equal logits give exactly equal sums.
#import grid
#import reduce
#import reduce_max

struct Params { grid: Grid, tile: u32, first: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> base: array<f32>;
@group(0) @binding(2) var<storage, read> quant: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> state: array<f32>;

// Fields of a position's state; kld.rs has the same.
const STATE: u32 = 12u;
const BASE_MAX: u32 = 0u;
const BASE_SUM: u32 = 1u;
const BASE_DIFFERENCE: u32 = 2u;
const BASE_TOP: u32 = 3u;
const QUANT_MAX: u32 = 4u;
const QUANT_SUM: u32 = 5u;
const QUANT_TOP: u32 = 6u;
const BASE_TARGET: u32 = 7u;
const QUANT_TARGET: u32 = 8u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(workgroup);
    if is_outside(row) {
        return;
    }
    let start = row * params.tile;
    var mine_base = Best(-1e30, 0u);
    var mine_quant = Best(-1e30, 0u);
    for (var i = local; i < params.tile; i += WORKGROUP) {
        if base[start + i] > mine_base.value {
            mine_base = Best(base[start + i], i);
        }
        if quant[start + i] > mine_quant.value {
            mine_quant = Best(quant[start + i], i);
        }
    }
    let top_base = reduce_max(local, mine_base);
    let top_quant = reduce_max(local, mine_quant);

    var sum_base = 0.0;
    var sum_difference = 0.0;
    var sum_quant = 0.0;
    for (var i = local; i < params.tile; i += WORKGROUP) {
        let weight = exp(base[start + i] - top_base.value);
        sum_base += weight;
        sum_difference += weight * (base[start + i] - quant[start + i]);
        sum_quant += exp(quant[start + i] - top_quant.value);
    }
    sum_base = reduce_sum(local, sum_base);
    sum_difference = reduce_sum(local, sum_difference);
    sum_quant = reduce_sum(local, sum_quant);
    if local != 0u {
        return;
    }

    let at = row * STATE;
    let base_max = max(state[at + BASE_MAX], top_base.value);
    let quant_max = max(state[at + QUANT_MAX], top_quant.value);
    let base_old = exp(state[at + BASE_MAX] - base_max);
    let base_new = exp(top_base.value - base_max);
    let quant_old = exp(state[at + QUANT_MAX] - quant_max);
    let quant_new = exp(top_quant.value - quant_max);
    state[at + BASE_SUM] = state[at + BASE_SUM] * base_old + sum_base * base_new;
    state[at + BASE_DIFFERENCE] = state[at + BASE_DIFFERENCE] * base_old + sum_difference * base_new;
    state[at + QUANT_SUM] = state[at + QUANT_SUM] * quant_old + sum_quant * quant_new;
    if top_base.value > state[at + BASE_MAX] {
        state[at + BASE_TOP] = f32(params.first + top_base.index);
    }
    if top_quant.value > state[at + QUANT_MAX] {
        state[at + QUANT_TOP] = f32(params.first + top_quant.index);
    }
    state[at + BASE_MAX] = base_max;
    state[at + QUANT_MAX] = quant_max;
    let label = targets[row];
    if label >= params.first && label - params.first < params.tile {
        state[at + BASE_TARGET] = base[start + label - params.first];
        state[at + QUANT_TARGET] = quant[start + label - params.first];
    }
}
