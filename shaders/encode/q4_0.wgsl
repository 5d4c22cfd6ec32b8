// Q4_0: d * (code - 8).
const SUB: u32 = 32u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 5u;
const LOW: f32 = -8.0;
const HIGH: f32 = 7.0;
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
    let fit = search_scale(Trials(-16.0, 0.4, 29u), Trials(14.0, -0.35, 29u));
    let d = f16_bits(fit.scale);
    let inverse = reciprocal(unpack2x16float(d).x);
    put(local, 0u, d);
    for (var j = 0u; j < 16u; j++) {
        let low = code_of(x[j] * inverse);
        let high = code_of(x[j + 16u] * inverse);
        put_byte(local, 2u + j, low | (high << 4u));
    }
    store(group, local);
}
