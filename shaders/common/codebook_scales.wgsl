// The search for block scales: levels times d * multiplier, with odd multipliers. Twin: `src/quant/codebook/scales.rs`.
//
// The importing shader declares PLAN and TRIALS = count + alternations, and gives `code` and `words`.
#import sum_block

struct ScalePlan {
    // Scales tried, in units of the weighted rms of the sub-block.
    first: f32,
    ratio: f32,
    count: u32,
    // Largest multiplier.
    top: f32,
    // Step of the divisors of the largest scale that are candidates for d.
    step: f32,
    // Multipliers tried on either side.
    window: u32,
    // Times that the codes are searched again.
    refits: u32,
}

const CANDIDATES: u32 = 32u;

// sum w x level (x) and sum w level^2 (y) of the codes of every trial.
var<workgroup> parabolas: array<vec2<f32>, LANES * TRIALS>;
// d and the bound of its cost, per block and candidate.
var<workgroup> candidates: array<vec2<f32>, LANES / SUBS * CANDIDATES>;
var<private> best_words: array<u32, GROUPS>;

fn root_mean_square() -> f32 {
    var energy = 0.0;
    var weight = 0.0;
    for (var n = 0u; n < SUB; n++) {
        energy += opaque(w[n] * x[n] * x[n]);
        weight += w[n];
    }
    return sqrt(energy / weight);
}

fn parabola_of(trial: vec2<f32>, scale: f32) -> vec2<f32> {
    return vec2<f32>(ratio(opaque(scale * scale * trial.y) - trial.x, 2.0 * scale), trial.y);
}

fn parabola_at(parabola: vec2<f32>, scale: f32) -> f32 {
    return opaque(scale * (opaque(scale * parabola.y) - 2.0 * parabola.x));
}

// The odd number nearest to y.
fn nearest_odd(y: f32) -> f32 {
    return clamp(2.0 * round((y - 1.0) * 0.5) + 1.0, 1.0, PLAN.top);
}

// The f16 with the least sum of bounds over the sub-blocks of the block.
fn super_scale(local: u32, own: f32) -> f32 {
    workgroupBarrier();
    exchange[local] = vec2<f32>(own, 0.0);
    workgroupBarrier();
    let first = local - local % SUBS;
    var largest = 0.0;
    for (var b = 0u; b < SUBS; b++) {
        largest = max(largest, exchange[first + b].x);
    }
    let first_candidate = local / SUBS * CANDIDATES;
    for (var c = local % SUBS; c < CANDIDATES; c += SUBS) {
        let d = round_f16(largest / (PLAN.top + 2.0 - f32(c) * PLAN.step));
        let inverse = reciprocal(d);
        var cost = 0.0;
        for (var b = 0u; b < SUBS; b++) {
            let middle = nearest_odd(opaque(exchange[first + b].x * inverse));
            var bound = GREATEST;
            for (var side = 0u; side < 3u; side++) {
                let scale = d * clamp(middle + 2.0 * f32(side) - 2.0, 1.0, PLAN.top);
                for (var t = 0u; t < TRIALS; t++) {
                    bound = min(bound, parabola_at(parabolas[t * LANES + first + b], scale));
                }
            }
            cost += bound;
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

// The multiplier of this sub-block with the least bound.
fn best_multiplier(local: u32, d: f32) -> f32 {
    var best = 1.0;
    var least = GREATEST;
    for (var multiplier = 1.0; multiplier <= PLAN.top; multiplier += 2.0) {
        for (var t = 0u; t < TRIALS; t++) {
            let bound = parabola_at(parabolas[t * LANES + local], d * multiplier);
            if bound < least {
                best = multiplier;
                least = bound;
            }
        }
    }
    return best;
}

struct ScaleFit {
    // Shared by the block.
    d: f32,
    multiplier: f32,
}

// Searches everything; the codes are in `best_words`.
fn search_scales(local: u32) -> ScaleFit {
    let start = root_mean_square();
    var own = 0.0;
    var gain = 0.0;
    var factor = PLAN.first;
    for (var t = 0u; t < TRIALS; t++) {
        let scale = select(own, factor * start, t < PLAN.count);
        factor *= PLAN.ratio;
        let parabola = parabola_of(code(scale), scale);
        parabolas[t * LANES + local] = parabola;
        let best = ratio(parabola.x, parabola.y);
        if best * parabola.x > gain && best > 0.0 {
            gain = best * parabola.x;
            own = best;
        }
    }

    var d = super_scale(local, own);
    let middle = best_multiplier(local, d);
    var multiplier = middle;
    var trial = code(d * middle);
    best_words = words;
    for (var i = 0u; i < 2u * PLAN.window; i++) {
        let offset = f32(2u * (i / 2u + 1u)) * select(1.0, -1.0, i % 2u == 0u);
        let other = clamp(middle + offset, 1.0, PLAN.top);
        let other_trial = code(d * other);
        if other_trial.x < trial.x {
            multiplier = other;
            trial = other_trial;
            best_words = words;
        }
    }

    for (var i = 0u; i <= PLAN.refits; i++) {
        // d for the codes found
        let parabola = parabola_of(trial, d * multiplier);
        let fractions = sum_block(local, vec2<f32>(multiplier * parabola.x, multiplier * multiplier * parabola.y));
        let best = round_f16(ratio(fractions.x, fractions.y));
        let solved = select(d, best, best > 0.0);
        let cost = parabola_at(parabola, solved * multiplier);
        var errors = sum_block(local, vec2<f32>(trial.x, cost));
        if errors.y < errors.x {
            d = solved;
            trial.x = cost;
        }
        if i == PLAN.refits {
            break;
        }
        let again = code(d * multiplier);
        errors = sum_block(local, vec2<f32>(trial.x, again.x));
        if errors.y < errors.x {
            trial = again;
            best_words = words;
        }
    }
    return ScaleFit(d, multiplier);
}
