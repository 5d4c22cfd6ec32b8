// Blocks with one scale, and the levels -1, 0, 1 and perhaps 2. Twin: `src/quant/ternary.rs`.
//
// The importing shader declares SIGNED: whether levels are not symmetric, so that scales may be negative.
#import scale_search
#import sum_block

// Sums over the lanes of a block, joined pairwise.
fn totals(local: u32, value: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    exchange[local] = value;
    workgroupBarrier();
    let first = local - local % SUBS;
    var sums: array<vec2<f32>, SUBS>;
    for (var i = 0u; i < SUBS; i++) {
        sums[i] = exchange[first + i];
    }
    for (var width = SUBS / 2u; width > 0u; width /= 2u) {
        for (var i = 0u; i < width; i++) {
            sums[i] += sums[i + width];
        }
    }
    return sums[0];
}

// Rounds the block with one scale, and keeps the best scale for those codes if it is better.
fn try_together(local: u32, fit: ScaleFit, inverse: f32) -> ScaleFit {
    let sums = totals(local, scale_sums(inverse));
    let scale = ratio(sums.x, sums.y);
    let gain = scale * sums.x;
    if gain > fit.gain {
        return ScaleFit(scale, gain, 0.0);
    }
    return fit;
}

fn weighted_rms(local: u32) -> f32 {
    var sums = vec2<f32>(0.0);
    for (var n = 0u; n < SUB; n++) {
        sums.x += opaque(w[n] * x[n] * x[n]);
        sums.y += w[n];
    }
    let both = totals(local, sums);
    return sqrt(both.x / both.y);
}

// The weight of largest magnitude of the block.
fn extreme_weight(local: u32) -> f32 {
    workgroupBarrier();
    exchange[local] = range_of();
    workgroupBarrier();
    let first = local - local % SUBS;
    var low = 0.0;
    var high = 0.0;
    for (var i = 0u; i < SUBS; i++) {
        low = min(low, exchange[first + i].x);
        high = max(high, exchange[first + i].y);
    }
    return select(high, low, -low > high);
}

fn ternary_scale(local: u32) -> f32 {
    var fit = ScaleFit(0.0, 0.0, 0.0);
    let rms = weighted_rms(local);
    var factor = 0.9;
    var sign = 1.0;
    for (var t = 0u; t < 3u; t++) {
        let inverse = sign * reciprocal(factor * rms);
        fit = try_together(local, fit, inverse);
        if SIGNED && t == 0u {
            let gain = fit.gain;
            fit = try_together(local, fit, -inverse);
            sign = select(1.0, -1.0, fit.gain > gain);
        }
        factor *= 1.5;
    }
    // weights that lie on a grid are found whatever their distribution
    let inverse = reciprocal(extreme_weight(local));
    fit = try_together(local, fit, inverse);
    if SIGNED {
        fit = try_together(local, fit, 2.0 * inverse);
    }
    return try_together(local, fit, reciprocal(fit.scale)).scale;
}
