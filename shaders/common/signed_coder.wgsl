// Codes of magnitudes, with signs apart. Twin: `SignedCoder` of `src/quant/codebook/coder.rs`.
//
// The importing shader gives its book and level_value.
#import codeword_search
#import signed_levels

const GROUPS: u32 = SUB / PER_WORD;

var<private> words: array<u32, GROUPS>;

fn fill_levels(group: u32, scale: f32) {
    for (var n = 0u; n < PER_WORD; n++) {
        fill_weight(n, x[group * PER_WORD + n], w[group * PER_WORD + n], scale);
    }
    fill_seconds(PARITY > 0u);
}

fn is_odd(first: u32) -> bool {
    var odd = false;
    for (var n = 0u; n < 8u; n++) {
        odd = odd != (x[first + n] < 0.0);
    }
    return odd;
}

// The best words for a scale: cost (x) and sum w level^2 (y).
fn code(scale: f32) -> vec2<f32> {
    var sums = vec2<f32>(0.0);
    var plain = 0.0;
    var flipped = 0.0;
    var plain_word = 0u;
    var flipped_word = 0u;
    for (var group = 0u; group < GROUPS; group++) {
        fill_levels(group, scale);
        if PARITY == 0u {
            let found = nearest_codeword();
            sums.x += found.cost;
            words[group] = found.word;
            continue;
        }
        let found = nearest_codewords();
        let odd = is_odd(8u * (group / max(PARITY, 1u)));
        if PARITY == 1u {
            sums.x += select(found[0].cost, found[1].cost, odd);
            words[group] = select(found[0].word, found[1].word, odd);
            continue;
        }
        if group % 2u == 0u {
            plain = found[0].cost;
            flipped = found[1].cost;
            plain_word = found[0].word;
            flipped_word = found[1].word;
            continue;
        }
        // the turned sign is in this codeword, or in the one before it
        let here = plain + found[1].cost;
        let before = flipped + found[0].cost;
        let is_here = here < before;
        sums.x += select(plain + found[0].cost, select(before, here, is_here), odd);
        words[group - 1u] = select(plain_word, select(flipped_word, plain_word, is_here), odd);
        words[group] = select(found[0].word, select(found[0].word, found[1].word, is_here), odd);
    }
    for (var i = 0u; i < SUB; i++) {
        let value = level_value(level_of(words[i / PER_WORD], i % PER_WORD));
        sums.y += opaque(w[i] * value * value);
    }
    return sums;
}

// The signs of eight weights, with the cheapest one turned if their number must be even and is not.
fn sign_bits(first: u32) -> u32 {
    var bits = 0u;
    var cheapest = 0u;
    var least = GREATEST;
    for (var n = 0u; n < 8u; n++) {
        let i = first + n;
        bits |= u32(x[i] < 0.0) << n;
        let flip = w[i] * abs(x[i]) * level_value(level_of(best_words[i / PER_WORD], i % PER_WORD));
        if flip < least {
            cheapest = n;
            least = flip;
        }
    }
    return bits ^ select(0u, 1u << cheapest, PARITY > 0u && countOneBits(bits) % 2u == 1u);
}
