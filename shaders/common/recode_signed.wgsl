// The codes of a unit of magnitudes, with signs apart. Twin: `choose` of `src/quant/codebook/coder.rs`.
//
// The importing shader gives its book and level_value.
#import recode_words
#import signed_levels
#import signs

var<workgroup> unit_x: array<f32, UNIT>;
var<workgroup> unit_w: array<f32, UNIT>;

// The costs of the levels of codeword `word` of the unit. Those of the codeword before it have been read by all.
fn fill_levels(local: u32, word: u32, x: f32, w: f32, scale: f32) {
    if local < UNIT && local / PER_WORD == word {
        fill_weight(local % PER_WORD, x, w, scale);
    }
}

fn choose(local: u32, x: f32, w: f32, scale: f32) -> Choice {
    if local < UNIT {
        unit_x[local] = x;
        unit_w[local] = w;
    }
    fill_levels(local, 0u, x, w, scale);
    if PARITY == 0u {
        return with_signs(vec2<u32>(nearest_codeword(local).word, 0u));
    }
    let first = nearest_codewords(local);
    if PARITY == 1u {
        return with_signs(vec2<u32>(select(first[0].word, first[1].word, is_odd()), 0u));
    }
    fill_levels(local, 1u, x, w, scale);
    let second = nearest_codewords(local);
    // the turned sign is in the second codeword, or in the first
    let is_here = first[0].cost + second[1].cost < first[1].cost + second[0].cost;
    let turned = select(
        vec2<u32>(first[1].word, second[0].word),
        vec2<u32>(first[0].word, second[1].word),
        is_here,
    );
    return with_signs(select(vec2<u32>(first[0].word, second[0].word), turned, is_odd()));
}

fn is_odd() -> bool {
    var odd = false;
    for (var n = 0u; n < UNIT; n++) {
        odd = odd != (unit_x[n] < 0.0);
    }
    return odd;
}

fn magnitude_of(words: vec2<u32>, n: u32) -> f32 {
    let word = select(words.x, words.y, n >= PER_WORD);
    return level_value(level_of(word, n % PER_WORD));
}

// The signs of the unit, with the cheapest one turned if their number must be even and is not.
fn with_signs(words: vec2<u32>) -> Choice {
    var bits = 0u;
    var cheapest = 0u;
    var least = GREATEST;
    for (var n = 0u; n < UNIT; n++) {
        bits |= u32(unit_x[n] < 0.0) << n;
        let flip = unit_w[n] * abs(unit_x[n]) * magnitude_of(words, n);
        if flip < least {
            cheapest = n;
            least = flip;
        }
    }
    return Choice(words, bits ^ select(0u, 1u << cheapest, PARITY > 0u && countOneBits(bits) % 2u == 1u));
}

fn value_of(choice: Choice, n: u32, scale: f32) -> f32 {
    return scale * magnitude_of(choice.words, n) * sign_factor(choice.signs, n);
}
