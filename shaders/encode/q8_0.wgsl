// Q8_0: d * code, codes from -127 to 127.
const SUB: u32 = 32u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 9u;
const LOW: f32 = -127.0;
const HIGH: f32 = 127.0;
#import sub_block
#import integer_levels
#import scale_search

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
    var error = scale_error(best);
    for (var t = 1u; t < 16u; t++) {
        let scale = round_f16(largest * reciprocal(127.0 - f32(t)));
        let other = scale_error(scale);
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
