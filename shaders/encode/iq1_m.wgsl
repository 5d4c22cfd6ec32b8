// IQ1_M: 2 codewords for each 16 weights, each moved either way.
const SUB: u32 = 16u;
const SUBS: u32 = 16u;
const BLOCK_WORDS: u32 = 14u;
const SHARED: bool = false;
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
    for (var g = 0u; g < 2u; g++) {
        let number = number_of(best_words[g]);
        put_byte(local, 2u * b + g, number & 255u);
        let high = (number >> 8u) | select(0u, 8u, (best_words[g] & DOWN) != 0u);
        put_byte(local, 32u + b, high << (4u * g));
    }
    put(local, 12u + b / 8u, scale << (16u * ((b / 4u) % 2u) + 3u * (b % 4u)));
    // a quarter of d above each four scales
    let quarter = (f16_bits(fit.d) >> (4u * (b % 4u))) & 15u;
    put(local, 12u + (b % 4u) / 2u, select(0u, quarter << (12u + 16u * (b % 2u)), b < 4u));
    store(group, local);
}
