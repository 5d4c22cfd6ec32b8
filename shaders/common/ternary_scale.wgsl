// Blocks with one scale, and the levels -1, 0, 1 and perhaps 2. Twin: `src/quant/ternary.rs`.
//
// The importing shader declares TRIALS, and SIGNED: whether levels are not symmetric, so that scales may be negative.
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

fn third_moment(local: u32) -> f32 {
    var moment = 0.0;
    for (var n = 0u; n < SUB; n++) {
        moment += opaque(w[n] * x[n] * x[n] * x[n]);
    }
    return totals(local, vec2<f32>(moment, 0.0)).x;
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
    // weights that lie on a grid are found whatever their distribution
    fit = try_together(local, fit, reciprocal(extreme_weight(local)));
    let rms = weighted_rms(local);
    var factor = 0.9;
    if SIGNED {
        factor = select(0.9, -0.9, third_moment(local) < 0.0);
    }
    for (var t = 0u; t < TRIALS; t++) {
        fit = try_together(local, fit, reciprocal(factor * rms));
        factor *= 1.6;
    }
    return try_together(local, fit, reciprocal(fit.scale)).scale;
}
