// The scale and offset of a sub-block with codes 0 to TOP, which the importing shader declares.
// Twin: `AffineFit` of `src/quant/search.rs`.

struct AffineFit {
    scale: f32,
    offset: f32,
    // Decrease of the error from coding everything as zero.
    gain: f32,
    // sum w code, sum w code^2
    codes: f32,
    squares: f32,
}

// sum w code, sum w code^2, sum w code x
struct AffineSums {
    codes: f32,
    squares: f32,
    products: f32,
}

// sum w (x) and sum w x (y) of the sub-block.
fn moments_of() -> vec2<f32> {
    var moments = vec2<f32>(0.0);
    for (var n = 0u; n < SUB; n++) {
        moments.x += w[n];
        moments.y += opaque(w[n] * x[n]);
    }
    return moments;
}

fn affine_code(value: f32, offset: f32, inverse: f32) -> f32 {
    return round(clamp((value - offset) * inverse, 0.0, TOP));
}

fn affine_sums(offset: f32, inverse: f32) -> AffineSums {
    var sums = AffineSums(0.0, 0.0, 0.0);
    for (var n = 0u; n < SUB; n++) {
        let code = affine_code(x[n], offset, inverse);
        let weighted = opaque(w[n] * code);
        sums.codes += weighted;
        sums.squares += opaque(weighted * code);
        sums.products += opaque(weighted * x[n]);
    }
    return sums;
}

// True error of the codes nearest to (x - offset) / scale.
fn affine_error(scale: f32, offset: f32) -> f32 {
    let inverse = reciprocal(scale);
    var error = 0.0;
    for (var n = 0u; n < SUB; n++) {
        let miss = opaque(affine_code(x[n], offset, inverse) * scale) + offset - x[n];
        error += opaque(w[n] * miss * miss);
    }
    return error;
}

// sum w * sum w code^2 - (sum w code)^2, and whether it is large enough to divide by.
fn determinant_of(weight: f32, sums: AffineSums) -> f32 {
    return opaque(weight * sums.squares) - opaque(sums.codes * sums.codes);
}

fn is_solvable(determinant: f32, weight: f32, squares: f32) -> bool {
    return determinant > 1e-6 * weight * squares;
}

fn try_codes(fit: AffineFit, moments: vec2<f32>, at: f32, inverse: f32) -> AffineFit {
    let sums = affine_sums(at, inverse);
    let weight = moments.x;
    let first = moments.y;
    let determinant = determinant_of(weight, sums);
    let solved = ratio(opaque(weight * sums.products) - opaque(sums.codes * first), determinant);
    var scale = select(0.0, solved, is_solvable(determinant, weight, sums.squares));
    var offset = (first - opaque(scale * sums.codes)) / weight;
    if NEGATIVE && offset > 0.0 {
        scale = ratio(sums.products, sums.squares);
        offset = 0.0;
    }
    let gain = opaque(scale * sums.products) + opaque(offset * first);
    if gain > fit.gain {
        return AffineFit(scale, offset, gain, sums.codes, sums.squares);
    }
    return fit;
}

// Every spread with every shift, then codes and scales once more in turn.
fn search_affine(moments: vec2<f32>, range: vec2<f32>, spreads: Trials, shifts: Trials) -> AffineFit {
    var fit = AffineFit(0.0, 0.0, 0.0, 0.0, 0.0);
    let inverse = reciprocal(range.y - range.x);
    let step = (range.y - range.x) * (1.0 / TOP);
    for (var t = 0u; t < spreads.count; t++) {
        let spread = TOP + trial(spreads, t);
        for (var u = 0u; u < shifts.count; u++) {
            let offset = range.x + opaque(trial(shifts, u) * step);
            fit = try_codes(fit, moments, offset, spread * inverse);
        }
    }
    return try_codes(fit, moments, fit.offset, reciprocal(fit.scale));
}
