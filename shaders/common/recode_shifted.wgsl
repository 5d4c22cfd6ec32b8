// The code of a unit of signed ternary levels. Twin: `choose` of `src/quant/codebook/shifted.rs`.
//
// The importing shader declares FREE: whether each codeword moves up or down, or none does because the offset says it.
const UNIT: u32 = 8u;
#import book_iq1
#import recode_words
#import shifted_levels

fn nearest_moved(local: u32, x: f32, w: f32, scale: f32, shift: f32) -> Nearest {
    if local < UNIT {
        fill_weight(local, x, w, scale, shift);
    }
    return nearest_codeword(local);
}

fn choose(local: u32, x: f32, w: f32, scale: f32) -> Choice {
    if !FREE {
        return Choice(vec2<u32>(nearest_moved(local, x, w, scale, 0.0).word, 0u), 0u);
    }
    let high = nearest_moved(local, x, w, scale, SHIFT);
    let low = nearest_moved(local, x, w, scale, -SHIFT);
    return Choice(vec2<u32>(select(high.word, low.word | DOWN, low.cost < high.cost), 0u), 0u);
}

fn value_of(choice: Choice, n: u32, scale: f32) -> f32 {
    let word = choice.words.x;
    let shift = select(0.0, select(SHIFT, -SHIFT, (word & DOWN) != 0u), FREE);
    return scale * (f32(level_of(word, n)) - 1.0 + shift);
}
