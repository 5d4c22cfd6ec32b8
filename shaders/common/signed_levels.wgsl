// Levels of magnitudes, with signs apart. Twin: `src/quant/codebook/coder.rs`.
//
// The importing shader gives level_value, and its book PARITY: the number of codewords whose weights have an even number of
// minus signs (0 if signs are free).
const PER_WORD: u32 = 2u * HALF_WEIGHTS;

// The costs of the levels of weight n of a codeword, and of turning its sign.
fn fill_weight(n: u32, value: f32, weight: f32, scale: f32) {
    let slope = 2.0 * weight * abs(value);
    for (var level = 0u; level < LEVELS; level++) {
        let step = scale * level_value(level);
        let place = 32u * (n / HALF_WEIGHTS) + 8u * (n % HALF_WEIGHTS) + level;
        level_costs[place] = opaque(step * (opaque(weight * step) - slope));
        level_flips[place] = opaque((slope + slope) * step);
    }
}
