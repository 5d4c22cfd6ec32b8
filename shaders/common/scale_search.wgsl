// The scale of a sub-block with levels around zero; the importing shader gives `nearest`.
// Twin: `ScaleFit` and `scale_error` of `src/quant/search.rs`.

struct ScaleFit {
    scale: f32,
    // Decrease of the error from coding everything as zero.
    gain: f32,
    // sum w level^2
    curvature: f32,
}

// sum w x level (x) and sum w level^2 (y) of the levels nearest to x * inverse.
fn scale_sums(inverse: f32) -> vec2<f32> {
    var sums = vec2<f32>(0.0);
    for (var n = 0u; n < SUB; n++) {
        let level = nearest(x[n] * inverse);
        let weighted = w[n] * level;
        sums.x += opaque(weighted * x[n]);
        sums.y += opaque(weighted * level);
    }
    return sums;
}

fn try_inverse(fit: ScaleFit, inverse: f32) -> ScaleFit {
    let sums = scale_sums(inverse);
    let scale = ratio(sums.x, sums.y);
    let gain = scale * sums.x;
    if gain > fit.gain {
        return ScaleFit(scale, gain, sums.y);
    }
    return fit;
}

// Tries scales that send the extreme weight to each of the anchors.
fn try_anchors(start: ScaleFit, extreme: f32, anchors: Trials) -> ScaleFit {
    var fit = start;
    let inverse = reciprocal(extreme);
    for (var t = 0u; t < anchors.count; t++) {
        fit = try_inverse(fit, trial(anchors, t) * inverse);
    }
    return fit;
}

// Both sets of anchors, then codes and scale once more in turn.
fn search_scale(front: Trials, back: Trials) -> ScaleFit {
    let range = range_of();
    let high = max(range.y, 0.0);
    let extreme = select(high, range.x, -range.x > high);
    var fit = ScaleFit(0.0, 0.0, 0.0);
    fit = try_anchors(fit, extreme, front);
    fit = try_anchors(fit, extreme, back);
    return try_inverse(fit, reciprocal(fit.scale));
}

// True error of the levels nearest to x / scale.
fn scale_error(scale: f32) -> f32 {
    let inverse = reciprocal(scale);
    var error = 0.0;
    for (var n = 0u; n < SUB; n++) {
        let miss = opaque(nearest(x[n] * inverse) * scale) - x[n];
        error += opaque(w[n] * miss * miss);
    }
    return error;
}
