// Q8_0: d * code, codes from -127 to 127.
const SUB: u32 = 32u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 9u;
const LOW: f32 = -127.0;
const HIGH: f32 = 127.0;
#import sub_block
#import integer_levels

const NONE: f32 = 0x1.fffffep+127;

// True error of the codes nearest to x / scale, none for scales that make codes beyond the last.
fn unclamped_error(scale: f32, largest: f32) -> f32 {
    let inverse = reciprocal(scale);
    var error = 0.0;
    for (var n = 0u; n < SUB; n++) {
        let miss = opaque(round(x[n] * inverse) * scale) - x[n];
        error += opaque(w[n] * miss * miss);
    }
    return select(NONE, error, largest * inverse < 127.5);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let range = range_of();
    let largest = max(range.y, -range.x);
    var best = round_f16(largest / 127.0);
    var error = unclamped_error(best, largest);
    for (var t = 1u; t < 10u; t++) {
        let scale = round_f16(largest / (127.0 - f32(t)));
        let other = unclamped_error(scale, largest);
        if other < error {
            best = scale;
            error = other;
        }
    }
    put(local, 0u, f16_bits(best));
    let inverse = reciprocal(best);
    for (var j = 0u; j < 32u; j++) {
        put_byte(local, 2u + j, bitcast<u32>(i32(nearest(x[j] * inverse))) & 255u);
    }
    store(group, local);
}
