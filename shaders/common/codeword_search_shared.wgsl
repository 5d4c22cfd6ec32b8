// The exact search for codewords by a workgroup. Twin: `src/quant/codebook/nearest.rs`.
//
// Every invocation must call these, and all get the result. Costs of levels were written by any of them.
#import codeword_halves

var<workgroup> level_costs: array<f32, 64>;
var<workgroup> level_flips: array<f32, 64>;
var<workgroup> second_costs: array<f32, HALVES>;
var<workgroup> second_flipped: array<f32, HALVES>;
var<workgroup> found: array<Nearest, LANES>;
var<workgroup> numbers: array<u32, 2>;

// The cheaper of two codewords; of equally cheap ones, that with the lower first half.
fn cheaper(a: Nearest, b: Nearest) -> Nearest {
    let mask = (1u << HALF_BITS) - 1u;
    if b.cost < a.cost || (b.cost == a.cost && (b.word & mask) < (a.word & mask)) {
        return b;
    }
    return a;
}

// The cheapest of what the invocations have found: of eight each, then of the eight that are left.
fn cheapest(local: u32, own: Nearest) -> Nearest {
    workgroupBarrier();
    found[local] = own;
    workgroupBarrier();
    if local % 8u == 0u {
        var best = own;
        for (var i = 1u; i < 8u; i++) {
            best = cheaper(best, found[local + i]);
        }
        found[local] = best;
    }
    workgroupBarrier();
    var best = found[0];
    for (var i = 8u; i < LANES; i += 8u) {
        best = cheaper(best, found[i]);
    }
    return best;
}

fn fill_seconds(local: u32, flips: bool) {
    workgroupBarrier();
    for (var levels = local; levels < HALVES; levels += LANES) {
        fill_second(levels, flips);
    }
    workgroupBarrier();
}

fn nearest_codeword(local: u32) -> Nearest {
    fill_seconds(local, false);
    var best = Nearest(GREATEST, 0u);
    for (var g = local; g < GROUP_COUNT; g += LANES) {
        best = cheaper(best, nearest_in(g));
    }
    return cheapest(local, best);
}

// The cheapest codewords without and with one sign turned.
fn nearest_codewords(local: u32) -> array<Nearest, 2> {
    fill_seconds(local, true);
    var best = array<Nearest, 2>(Nearest(GREATEST, 0u), Nearest(GREATEST, 0u));
    for (var g = local; g < GROUP_COUNT; g += LANES) {
        let pair = nearest_pair_in(g);
        best[0] = cheaper(best[0], pair[0]);
        best[1] = cheaper(best[1], pair[1]);
    }
    let plain = cheapest(local, best[0]);
    return array<Nearest, 2>(plain, cheapest(local, best[1]));
}

// Finds the number in the file of a codeword; `numbers` holds it after the next barrier.
fn find_number(local: u32, word: u32, place: u32) {
    for (var i = local; i < WORD_COUNT / 2u; i += LANES) {
        let pair = codewords[GRID_AT + i];
        if (pair & 0xFFFFu) == (word & 0xFFFFu) {
            numbers[place] = 2u * i;
        }
        if (pair >> 16u) == (word & 0xFFFFu) {
            numbers[place] = 2u * i + 1u;
        }
    }
}
