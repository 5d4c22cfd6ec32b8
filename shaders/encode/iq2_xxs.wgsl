// IQ2_XXS: 4 codewords for each 32 weights, whose signs have even parity.
const SUB: u32 = 32u;
const SUBS: u32 = 8u;
const BLOCK_WORDS: u32 = 17u;
const PLAN = ScalePlan(0.2, 1.22, 6u, 31.0, 0.4375, 1u, 1u);
const TRIALS: u32 = 7u;
#import sub_block
#import iq2_eighths
#import book_iq2_xxs
#import signed_coder
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
    var packed = scale;
    for (var i = 0u; i < 4u; i++) {
        let g = 3u - i;
        put_byte(local, 2u + 8u * b + g, number_of(best_words[g]));
        packed = (packed << 7u) | (sign_bits(8u * g) & 127u);
    }
    put(local, 1u + 2u * b, packed << 16u);
    put(local, 2u + 2u * b, packed >> 16u);
    store(group, local);
}
