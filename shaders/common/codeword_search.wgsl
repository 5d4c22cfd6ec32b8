// The exact search for codewords by one invocation. Twin: `src/quant/codebook/nearest.rs`.
#import codeword_halves

var<private> level_costs: array<f32, 64>;
var<private> level_flips: array<f32, 64>;
var<private> second_costs: array<f32, HALVES>;
var<private> second_flipped: array<f32, HALVES>;

fn fill_seconds(flips: bool) {
    for (var levels = 0u; levels < HALVES; levels++) {
        fill_second(levels, flips);
    }
}

// The cheapest codeword; of equally cheap ones, that with the lowest first half.
fn nearest_codeword() -> Nearest {
    var best = Nearest(GREATEST, 0u);
    for (var g = 0u; g < GROUP_COUNT; g++) {
        let found = nearest_in(g);
        if found.cost < best.cost {
            best = found;
        }
    }
    return best;
}

// The cheapest codewords without and with one sign turned.
fn nearest_codewords() -> array<Nearest, 2> {
    var best = array<Nearest, 2>(Nearest(GREATEST, 0u), Nearest(GREATEST, 0u));
    for (var g = 0u; g < GROUP_COUNT; g++) {
        let found = nearest_pair_in(g);
        if found[0].cost < best[0].cost {
            best[0] = found[0];
        }
        if found[1].cost < best[1].cost {
            best[1] = found[1];
        }
    }
    return best;
}

// The number in the file of a codeword.
fn number_of(word: u32) -> u32 {
    for (var i = 0u; i < WORD_COUNT / 2u; i++) {
        let pair = codewords[GRID_AT + i];
        if (pair & 0xFFFFu) == (word & 0xFFFFu) {
            return 2u * i;
        }
        if (pair >> 16u) == (word & 0xFFFFu) {
            return 2u * i + 1u;
        }
    }
    return 0u;
}
