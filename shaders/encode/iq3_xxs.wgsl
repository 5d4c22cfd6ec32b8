// IQ3_XXS: 8 codewords for each 32 weights; the signs of two have even parity.
const SUB: u32 = 32u;
const SUBS: u32 = 8u;
const BLOCK_WORDS: u32 = 25u;
const PLAN = ScalePlan(0.085, 1.11, 11u, 31.0, 0.4375, 2u, 1u);
const TRIALS: u32 = 12u;
#import sub_block
#import book_iq3_xxs
#import signed_coder
#import codebook_scales

fn level_value(level: u32) -> f32 {
    return f32(2u * level + 1u) + select(0.0, 0.5, level == 7u);
}

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
        let pair = 3u - i;
        for (var g = 2u * pair; g < 2u * pair + 2u; g++) {
            put_byte(local, 2u + 8u * b + g, number_of(best_words[g]));
        }
        packed = (packed << 7u) | (sign_bits(8u * pair) & 127u);
    }
    put(local, 16u + b, packed << 16u);
    put(local, 17u + b, packed >> 16u);
    store(group, local);
}
