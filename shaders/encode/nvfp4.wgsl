// NVFP4: 4-bit floats with an 8-bit float for each 16.
const SUB: u32 = 16u;
const SUBS: u32 = 4u;
const BLOCK_WORDS: u32 = 9u;
#import sub_block
#import e2m1_nearest
#import scale_search
#import ue4m3

var<private> best_code: f32;
var<private> least_error: f32;

fn nearest_code(half: f32) -> f32 {
    let bounded = clamp(half, 0.0, 224.0);
    if bounded < 8.0 / 1024.0 {
        return round(bounded * 1024.0);
    }
    // the exponent and three bits of mantissa, rounded
    return clamp(f32((bitcast<u32>(opaque(bounded)) + 0x80000u) >> 20u) - 952.0, 8.0, 126.0);
}

fn try_code(code: f32) {
    let bounded = clamp(code, 0.0, 126.0);
    let error = scale_error(half_scale(u32(bounded)));
    if error < least_error {
        best_code = bounded;
        least_error = error;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let largest = largest_magnitude();
    let base = nearest_code(largest / 12.0);
    best_code = 0.0;
    least_error = 3.4028234e38;
    for (var offset = -4.0; offset <= 6.0; offset += 1.0) {
        try_code(base + offset);
    }
    try_code(nearest_code(largest / 6.0));
    try_code(nearest_code(largest / 4.0));
    try_code(nearest_code(largest / 2.0));
    try_code(nearest_code(largest));
    let b = local % SUBS;
    put_byte(local, b, u32(best_code));
    let inverse = reciprocal(half_scale(u32(best_code)));
    for (var n = 0u; n < SUB; n++) {
        put_byte(local, 4u + 8u * b + n % 8u, code_of(x[n] * inverse) << (4u * (n / 8u)));
    }
    store(group, local);
}
