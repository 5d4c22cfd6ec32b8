// Super-blocks with a scale and a min per sub-block: weights are d * scale * code - d_min * depth.
// Twin: `affine` of `src/quant/super_block.rs`.
#import affine_search
#import super_scale

struct AffineSuper {
    // Shared by the block.
    d: f32,
    d_min: f32,
    scale: f32,
    depth: f32,
}

struct IntegerFit {
    scale: f32,
    depth: f32,
    gain: f32,
}

// Rounds with one scale and depth, then keeps the best integers for those codes.
fn try_integers(
    fit: IntegerFit,
    moments: vec2<f32>,
    supers: vec2<f32>,
    start_scale: f32,
    start_depth: f32,
) -> IntegerFit {
    let sums = affine_sums(-(supers.y * start_depth), reciprocal(supers.x * start_scale));
    let weight = moments.x;
    let first = moments.y;
    let determinant = determinant_of(weight, sums);
    let solved = ratio(opaque(weight * sums.products) - opaque(sums.codes * first), determinant);
    let rounded = nearest_integer(ratio(solved, supers.x));
    var scale = select(start_scale, rounded, is_solvable(determinant, weight, sums.squares));
    var step = supers.x * scale;
    let depth = nearest_integer(ratio((opaque(step * sums.codes) - first) / weight, supers.y));
    let offset = -(supers.y * depth);
    // the scale again, for the rounded offset
    scale = nearest_integer(ratio(ratio(sums.products - opaque(offset * sums.codes), sums.squares), supers.x));
    step = supers.x * scale;
    let gain = opaque(step * (2.0 * sums.products - opaque(step * sums.squares)))
        + opaque(offset * (2.0 * first - opaque(offset * weight)))
        - opaque(2.0 * step * offset * sums.codes);
    if gain > fit.gain {
        return IntegerFit(scale, depth, gain);
    }
    return fit;
}

fn search_super(local: u32, spreads: Trials, shifts: Trials) -> AffineSuper {
    let moments = moments_of();
    var range = range_of();
    range.x = min(range.x, 0.0);
    let fit = search_affine(moments, range, spreads, shifts);

    // each offset follows its scale, so only the part of the curvature that an offset cannot absorb counts
    let curvature = fit.squares - fit.codes * fit.codes / moments.x;
    let d = super_scale(local, fit.scale, curvature);
    let scale = nearest_integer(fit.scale * reciprocal(d));
    let real_depth = max((opaque(d * scale * fit.codes) - moments.y) / moments.x, 0.0);
    let d_min = super_scale(local, real_depth, moments.x);
    let depth = nearest_integer(real_depth * reciprocal(d_min));

    let supers = vec2<f32>(d, d_min);
    var integers = IntegerFit(0.0, 0.0, 0.0);
    integers = try_integers(integers, moments, supers, scale, depth);
    integers = try_integers(integers, moments, supers, nearest_integer(scale - 1.0), depth);
    integers = try_integers(integers, moments, supers, nearest_integer(scale + 1.0), depth);
    integers = try_integers(integers, moments, supers, integers.scale, integers.depth);
    return refit(local, moments, AffineSuper(d, d_min, integers.scale, integers.depth));
}

// Solves for both super-scales given the codes and integers, and keeps them if the true error falls.
fn refit(local: u32, moments: vec2<f32>, fit: AffineSuper) -> AffineSuper {
    let step = fit.d * fit.scale;
    let offset = -(fit.d_min * fit.depth);
    let sums = affine_sums(offset, reciprocal(step));
    let ab = sum_block(local, vec2<f32>(fit.scale * fit.scale * sums.squares, fit.scale * fit.depth * sums.codes));
    let cp = sum_block(local, vec2<f32>(fit.depth * fit.depth * moments.x, fit.scale * sums.products));
    let q = sum_block(local, vec2<f32>(fit.depth * moments.y, 0.0)).x;
    let a = ab.x;
    let b = ab.y;
    let c = cp.x;
    let p = cp.y;
    let determinant = opaque(a * c) - opaque(b * b);
    let solvable = determinant > 1e-6 * a * c;
    let both_d = ratio(opaque(p * c) - opaque(q * b), determinant);
    let both_min = ratio(opaque(b * p) - opaque(a * q), determinant);
    let d = round_f16(select(ratio(p, a), both_d, solvable));
    let d_min = round_f16(select(0.0, both_min, solvable));
    let errors = vec2<f32>(affine_error(step, offset), affine_error(d * fit.scale, -(d_min * fit.depth)));
    let total = sum_block(local, errors);
    if total.y < total.x {
        return AffineSuper(d, d_min, fit.scale, fit.depth);
    }
    return fit;
}
