// One scale for the levels -1, 0, 1 and perhaps 2. Twin: `src/quant/ternary.rs`.
//
// The importing shader declares SIGNED: whether levels are not symmetric, so that negative scales are worth a try.
#import scale_search

fn weighted_rms() -> f32 {
    var energy = 0.0;
    var weight = 0.0;
    for (var n = 0u; n < SUB; n++) {
        energy += opaque(w[n] * x[n] * x[n]);
        weight += w[n];
    }
    return sqrt(energy / weight);
}

fn ternary_scale() -> f32 {
    var fit = ScaleFit(0.0, 0.0, 0.0);
    let rms = weighted_rms();
    var factor = 0.6;
    for (var t = 0u; t < 12u; t++) {
        let inverse = reciprocal(factor * rms);
        fit = try_inverse(fit, inverse);
        if SIGNED {
            fit = try_inverse(fit, -inverse);
        }
        factor *= 1.16;
    }
    // weights that lie on a grid are found whatever their distribution
    let range = range_of();
    let high = max(range.y, 0.0);
    let inverse = reciprocal(select(high, range.x, -range.x > high));
    fit = try_inverse(fit, inverse);
    if SIGNED {
        fit = try_inverse(fit, -inverse);
        fit = try_inverse(fit, 2.0 * inverse);
    }
    for (var i = 0u; i < 3u; i++) {
        fit = try_inverse(fit, reciprocal(fit.scale));
    }
    return fit.scale;
}
