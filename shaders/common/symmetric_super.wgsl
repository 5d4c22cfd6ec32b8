// Super-blocks with levels around zero. Twin: `symmetric` of `src/quant/super_block.rs`.
#import scale_search
#import super_scale

struct SymmetricFit {
    // Shared by the block.
    d: f32,
    integer: f32,
}

fn search_symmetric(local: u32, front: Trials, back: Trials) -> SymmetricFit {
    let fit = search_scale(front, back);
    let d = super_scale(local, fit.scale, fit.curvature);

    let middle = nearest_integer(fit.scale * reciprocal(d));
    var integer = middle;
    var error = scale_error(d * middle);
    for (var side = 0u; side < 2u; side++) {
        let other = nearest_integer(middle + select(1.0, -1.0, side == 0u));
        let other_error = scale_error(d * other);
        if other_error < error {
            integer = other;
            error = other_error;
        }
    }

    let sums = scale_sums(reciprocal(d * integer));
    let fractions = sum_block(local, vec2<f32>(integer * sums.x, integer * integer * sums.y));
    let refit = round_f16(ratio(fractions.x, fractions.y));
    let errors = sum_block(local, vec2<f32>(error, scale_error(refit * integer)));
    return SymmetricFit(select(d, refit, errors.y < errors.x), integer);
}
