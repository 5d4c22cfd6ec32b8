// Codes of signed ternary codewords that are moved up or down by an eighth. Twin: `src/quant/codebook/shifted.rs`.
//
// The importing shader declares SHARED: whether all codewords of a sub-block move the same way.
const HALF_WEIGHTS: u32 = 4u;
const LEVELS: u32 = 3u;
const LEVEL_BITS: u32 = 2u;
const HALF_BITS: u32 = 8u;
const HALVES: u32 = 171u;
const GROUPS_AT = IQ1_GROUPS;
const GROUP_COUNT = IQ1_GROUP_COUNT;
const SECONDS_AT = IQ1_SECONDS;
const GRID_AT = IQ1_GRID;
const WORD_COUNT = IQ1_WORDS;
#import codeword_search

const GROUPS: u32 = SUB / 8u;
const SHIFT: f32 = 0.125;
// The bit of a word that is moved down.
const DOWN: u32 = 0x10000u;

var<private> words: array<u32, GROUPS>;

fn nearest_moved(group: u32, scale: f32, shift: f32) -> Nearest {
    for (var n = 0u; n < 8u; n++) {
        let i = group * 8u + n;
        let slope = 2.0 * w[i] * x[i];
        for (var level = 0u; level < 3u; level++) {
            let step = scale * (f32(level) - 1.0 + shift);
            level_costs[8u * n + level] = opaque(step * (opaque(w[i] * step) - slope));
        }
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
