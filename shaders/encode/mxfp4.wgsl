// MXFP4: 4-bit floats and a power of two.
const SUB: u32 = 32u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 5u;
#import sub_block
#import e2m1_nearest
#import scale_search

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    // 2^exponent * 4 <= largest < 2^exponent * 8
    let base = f32(bitcast<u32>(largest_magnitude()) >> 23u) - 2.0;
    var best = 0.0;
    var least = 3.4028234e38;
    for (var offset = -1.0; offset <= 1.0; offset += 1.0) {
        let exponent = clamp(base + offset, 60.0, 254.0);
        let error = scale_error(half_scale(exponent));
        if error < least {
            best = exponent;
            least = error;
        }
    }
    let inverse = reciprocal(half_scale(best));
    put_byte(local, 0u, u32(best));
    for (var n = 0u; n < SUB; n++) {
        put_byte(local, 1u + n % 16u, code_of(x[n] * inverse) << (4u * (n / 16u)));
    }
    store(group, local);
}

// Half of 2^(exponent - 127), for doubled levels.
fn half_scale(exponent: f32) -> f32 {
    return bitcast<f32>((u32(exponent) - 1u) << 23u);
}
