// Ternary levels that are moved up or down. Twin: `src/quant/codebook/shifted.rs`.
const SHIFT: f32 = 0.125;
// The bit of a word that is moved down.
const DOWN: u32 = 0x10000u;

// The costs of the levels of weight n of a codeword.
fn fill_weight(n: u32, value: f32, weight: f32, scale: f32, shift: f32) {
    let slope = 2.0 * weight * value;
    for (var level = 0u; level < 3u; level++) {
        let step = scale * (f32(level) - 1.0 + shift);
        level_costs[8u * n + level] = opaque(step * (opaque(weight * step) - slope));
    }
}
