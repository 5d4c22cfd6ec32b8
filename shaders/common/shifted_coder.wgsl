// Codes of signed ternary codewords that are moved up or down by an eighth. Twin: `src/quant/codebook/shifted.rs`.
//
// The importing shader declares SHARED: whether all codewords of a sub-block move the same way.
#import book_iq1
#import codeword_search
#import shifted_levels

const GROUPS: u32 = SUB / 8u;

var<private> words: array<u32, GROUPS>;

fn nearest_moved(group: u32, scale: f32, shift: f32) -> Nearest {
    for (var n = 0u; n < 8u; n++) {
        fill_weight(n, x[group * 8u + n], w[group * 8u + n], scale, shift);
    }
    fill_seconds(false);
    return nearest_codeword();
}

// The best words for a scale: cost (x) and sum w level^2 (y).
fn code(scale: f32) -> vec2<f32> {
    var up = 0.0;
    var down = 0.0;
    var down_words: array<u32, GROUPS>;
    for (var group = 0u; group < GROUPS; group++) {
        let high = nearest_moved(group, scale, SHIFT);
        let low = nearest_moved(group, scale, -SHIFT);
        words[group] = high.word;
        down_words[group] = low.word | DOWN;
        let falls = !SHARED && low.cost < high.cost;
        up += select(high.cost, low.cost, falls);
        down += low.cost;
        if falls {
            words[group] = down_words[group];
        }
    }
    if SHARED && down < up {
        up = down;
        words = down_words;
    }
    var squares = 0.0;
    for (var i = 0u; i < SUB; i++) {
        let word = words[i / 8u];
        let value = f32(level_of(word, i % 8u)) - 1.0 + select(SHIFT, -SHIFT, (word & DOWN) != 0u);
        squares += opaque(w[i] * value * value);
    }
    return vec2<f32>(up, squares);
}
