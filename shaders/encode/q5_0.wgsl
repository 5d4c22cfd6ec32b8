// Q5_0: d * (code - 16).
const SUB: u32 = 32u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 6u;
const LOW: f32 = -16.0;
const HIGH: f32 = 15.0;
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
    let fit = search_scale(Trials(-32.0, 0.8, 29u), Trials(30.0, -0.75, 29u));
    let d = f16_bits(fit.scale);
    let inverse = reciprocal(unpack2x16float(d).x);
    put(local, 0u, d);
    // the fifth bits follow d, weight j in bit j
    var fifth = 0u;
    for (var j = 0u; j < 16u; j++) {
        let low = code_of(x[j] * inverse);
        let high = code_of(x[j + 16u] * inverse);
        put_byte(local, 6u + j, (low & 15u) | ((high & 15u) << 4u));
        fifth |= ((low >> 4u) << j) | ((high >> 4u) << (j + 16u));
    }
    put(local, 0u, fifth << 16u);
    put(local, 1u, fifth >> 16u);
    store(group, local);
}
