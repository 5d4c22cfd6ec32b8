// IQ1_S: 4 codewords for each 32 weights, all moved the same way.
const SUB: u32 = 32u;
const SUBS: u32 = 8u;
const BLOCK_WORDS: u32 = 13u;
const SHARED: bool = true;
const PLAN = ScalePlan(0.9, 1.4, 3u, 15.0, 0.21875, 0u, 0u);
const TRIALS: u32 = 4u;
#import sub_block
#import shifted_coder
#import codebook_scales

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let fit = search_scales(local);
    let b = local % SUBS;
    let scale = (u32(fit.multiplier) - 1u) / 2u;
    put(local, 0u, select(0u, f16_bits(fit.d), b == 0u));
    var high = (scale << 12u) | select(0u, 0x8000u, (best_words[0] & DOWN) != 0u);
    for (var g = 0u; g < 4u; g++) {
        let number = number_of(best_words[g]);
        put_byte(local, 2u + 4u * b + g, number & 255u);
        high |= (number >> 8u) << (3u * g);
    }
    let place = 17u + b;
    put(local, place / 2u, high << (16u * (place % 2u)));
    store(group, local);
}
