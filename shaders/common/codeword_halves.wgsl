// Codewords by halves. Twin: `src/quant/codebook/nearest.rs`.
//
// The importing shader gives a book: what a codeword is (HALF_WEIGHTS weights of LEVELS levels in LEVEL_BITS each make a half,
// which takes HALF_BITS and is below HALVES) and where its codewords are. It declares tables, in private memory for a search
// by one invocation, in that of the workgroup for one by all:
// - level_costs, level_flips: costs of the levels of a group of weights for one scale, and of turning their signs: 8 levels for
//   each of 4 weights, then the same for the second half;
// - second_costs, second_flipped: costs of second halves, without and with their cheapest flip, marked with the half in their
//   low eight bits.
//
// Four codewords are handled per turn of a loop: llvmpipe leaves all loops after 65,535 turns of any loop of an invocation.
#import codewords

const GREATEST: f32 = 3.4028234e38;

struct Nearest {
    cost: f32,
    word: u32,
}

fn level_of(levels: u32, n: u32) -> u32 {
    return (levels >> (LEVEL_BITS * n)) & ((1u << LEVEL_BITS) - 1u);
}

fn place_of(half: u32, levels: u32, n: u32) -> u32 {
    return 32u * half + 8u * n + level_of(levels, n);
}

fn half_cost(half: u32, levels: u32) -> f32 {
    let low = level_costs[place_of(half, levels, 0u)] + level_costs[place_of(half, levels, 1u)];
    if HALF_WEIGHTS == 2u {
        return low;
    }
    return low + (level_costs[place_of(half, levels, 2u)] + level_costs[place_of(half, levels, 3u)]);
}

fn half_flip(half: u32, levels: u32) -> f32 {
    let low = min(level_flips[place_of(half, levels, 0u)], level_flips[place_of(half, levels, 1u)]);
    if HALF_WEIGHTS == 2u {
        return low;
    }
    return min(low, min(level_flips[place_of(half, levels, 2u)], level_flips[place_of(half, levels, 3u)]));
}

fn marked(cost: f32, levels: u32) -> f32 {
    return bitcast<f32>((bitcast<u32>(opaque(cost)) & 0xFFFFFF00u) | levels);
}

// Fills the tables of second halves from the costs of levels, one half.
fn fill_second(levels: u32, flips: bool) {
    // ternary levels never have both bits set
    if LEVELS == 3u && (levels & (levels >> 1u) & 0x55u) != 0u {
        return;
    }
    let cost = half_cost(1u, levels);
    second_costs[levels] = marked(cost, levels);
    if flips {
        second_flipped[levels] = marked(cost + half_flip(1u, levels), levels);
    }
}

fn word_of(first: u32, second: f32) -> u32 {
    return first | ((bitcast<u32>(second) & 255u) << HALF_BITS);
}

// The cheapest codeword of group g, which all begin with the same half.
fn nearest_in(g: u32) -> Nearest {
    let entry = codewords[GROUPS_AT + g];
    let end = entry >> 20u;
    var low = GREATEST;
    for (var k = (entry >> 8u) & 0xFFFu; k < end; k++) {
        let four = codewords[SECONDS_AT + k];
        let even = min(second_costs[four & 255u], second_costs[(four >> 16u) & 255u]);
        let odd = min(second_costs[(four >> 8u) & 255u], second_costs[four >> 24u]);
        low = min(low, min(even, odd));
    }
    return Nearest(half_cost(0u, entry & 255u) + low, word_of(entry & 255u, low));
}

// The cheapest codewords of group g without and with one sign turned.
fn nearest_pair_in(g: u32) -> array<Nearest, 2> {
    let entry = codewords[GROUPS_AT + g];
    let end = entry >> 20u;
    let first = entry & 255u;
    var low = GREATEST;
    var low_flipped = GREATEST;
    for (var k = (entry >> 8u) & 0xFFFu; k < end; k++) {
        let four = codewords[SECONDS_AT + k];
        let a = four & 255u;
        let b = (four >> 8u) & 255u;
        let c = (four >> 16u) & 255u;
        let d = four >> 24u;
        low = min(low, min(min(second_costs[a], second_costs[c]), min(second_costs[b], second_costs[d])));
        let even = min(second_flipped[a], second_flipped[c]);
        let odd = min(second_flipped[b], second_flipped[d]);
        low_flipped = min(low_flipped, min(even, odd));
    }
    let plain = half_cost(0u, first);
    let early = plain + half_flip(0u, first) + low;
    let late = plain + low_flipped;
    let is_early = early < late;
    let flipped = Nearest(select(late, early, is_early), word_of(first, select(low_flipped, low, is_early)));
    return array<Nearest, 2>(Nearest(plain + low, word_of(first, low)), flipped);
}
