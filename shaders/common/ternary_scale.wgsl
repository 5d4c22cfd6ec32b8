// One scale for the levels -1, 0, 1 and perhaps 2. Twin: `src/quant/ternary.rs`.
//
// The importing shader declares SIGNED: whether levels are not symmetric, so that scales may be negative.
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
    var factor = 0.85;
    var sign = 1.0;
    for (var t = 0u; t < 4u; t++) {
        let inverse = sign * reciprocal(factor * rms);
        fit = try_inverse(fit, inverse);
        if SIGNED && t == 0u {
            let gain = fit.gain;
            fit = try_inverse(fit, -inverse);
            sign = select(1.0, -1.0, fit.gain > gain);
        }
        factor *= 1.42;
    }
    // weights that lie on a grid are found whatever their distribution
    let range = range_of();
    let high = max(range.y, 0.0);
    let inverse = reciprocal(select(high, range.x, -range.x > high));
    fit = try_inverse(fit, inverse);
    if SIGNED {
        fit = try_inverse(fit, 2.0 * inverse);
    }
    for (var i = 0u; i < 2u; i++) {
        fit = try_inverse(fit, reciprocal(fit.scale));
    }
    return fit.scale;
}
