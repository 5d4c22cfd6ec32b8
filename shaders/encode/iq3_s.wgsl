// IQ3_S: 8 codewords for each 32 weights, with free signs.
const SUB: u32 = 32u;
const SUBS: u32 = 8u;
const BLOCK_WORDS: u32 = 28u;
const PLAN = ScalePlan(0.085, 1.11, 11u, 31.0, 0.4375, 2u, 1u);
const TRIALS: u32 = 12u;
#import sub_block
#import book_iq3_s
#import signed_coder
#import codebook_scales

fn level_value(level: u32) -> f32 {
    return f32(2u * level + 1u);
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
    put_byte(local, 106u + b / 2u, scale << (4u * (b % 2u)));
    for (var g = 0u; g < 8u; g++) {
        let number = number_of(best_words[g]);
        put_byte(local, 2u + 8u * b + g, number & 255u);
        put_byte(local, 66u + b, (number >> 8u) << g);
    }
    for (var pair = 0u; pair < 4u; pair++) {
        put_byte(local, 74u + 4u * b + pair, sign_bits(8u * pair));
    }
    store(group, local);
}
