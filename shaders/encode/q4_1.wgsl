// Q4_1: d * code + m.
const SUB: u32 = 32u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 5u;
const TOP: f32 = 15.0;
const NEGATIVE: bool = false;
#import sub_block
#import affine_search

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let moments = moments_of();
    let fit = search_affine(moments, range_of(), Trials(-3.0, 1.0, 6u), Trials(-0.5, 0.25, 10u));
    // the offset is solved for again once the scale is rounded
    let d = f16_bits(fit.scale);
    let scale = unpack2x16float(d).x;
    let inverse = reciprocal(scale);
    let sums = affine_sums(fit.offset, inverse);
    let m = f16_bits((moments.y - opaque(scale * sums.codes)) / moments.x);
    let offset = unpack2x16float(m).x;
    put(local, 0u, d | (m << 16u));
    for (var j = 0u; j < 16u; j++) {
        let low = u32(affine_code(x[j], offset, inverse));
        let high = u32(affine_code(x[j + 16u], offset, inverse));
        put_byte(local, 4u + j, low | (high << 4u));
    }
    store(group, local);
}
