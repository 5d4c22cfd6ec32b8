// The choice of the shared scale of a super-block. Twin: `super_scale` of `src/quant/search.rs`.
#import sum_block

// The integers of a super-block's scales: their range, and those to which the extreme scale is sent.
struct ScalePlan {
    low: f32,
    high: f32,
    front: f32,
    back: f32,
    step: f32,
}

const CANDIDATES: u32 = 16u;

// d and its cost, per block and candidate.
var<workgroup> candidates: array<vec2<f32>, LANES / SUBS * CANDIDATES>;

fn nearest_integer(y: f32) -> f32 {
    return round(clamp(y, SCALES.low, SCALES.high));
}

fn anchor(c: u32) -> f32 {
    let half = CANDIDATES / 2u;
    return select(SCALES.back - f32(c % half) * SCALES.step, SCALES.front + f32(c) * SCALES.step, c < half);
}

// The f16 of which the scales are best multiples: the least sum of curvature * (d * integer - scale)^2.
fn super_scale(local: u32, scale: f32, curvature: f32) -> f32 {
    workgroupBarrier();
    exchange[local] = vec2<f32>(scale, curvature);
    workgroupBarrier();
    let first = local - local % SUBS;
    var extreme = 0.0;
    for (var b = 0u; b < SUBS; b++) {
        let other = exchange[first + b].x;
        extreme = select(extreme, other, abs(other) > abs(extreme));
    }
    let first_candidate = local / SUBS * CANDIDATES;
    for (var c = local % SUBS; c < CANDIDATES; c += SUBS) {
        let d = round_f16(extreme / anchor(c));
        let inverse = reciprocal(d);
        var cost = 0.0;
        for (var b = 0u; b < SUBS; b++) {
            let sub = exchange[first + b];
            let miss = opaque(nearest_integer(sub.x * inverse) * d) - sub.x;
            cost += opaque(sub.y * miss * miss);
        }
        candidates[first_candidate + c] = vec2<f32>(d, cost);
    }
    workgroupBarrier();
    var best = candidates[first_candidate];
    for (var c = 1u; c < CANDIDATES; c++) {
        let other = candidates[first_candidate + c];
        if other.y < best.y {
            best = other;
        }
    }
    return best.x;
}
