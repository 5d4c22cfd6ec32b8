// IQ2_XS: 2 codewords for each 16 weights, whose signs have even parity.
const SUB: u32 = 16u;
const SUBS: u32 = 16u;
const BLOCK_WORDS: u32 = 19u;
const PLAN = ScalePlan(0.2, 1.22, 6u, 31.0, 0.4375, 1u, 1u);
const TRIALS: u32 = 7u;
#import sub_block
#import iq2_eighths
#import book_iq2_xs
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
    put_byte(local, 66u + b / 2u, scale << (4u * (b % 2u)));
    for (var g = 0u; g < 2u; g++) {
        let packed = number_of(best_words[g]) | ((sign_bits(8u * g) & 127u) << 9u);
        let place = 1u + 2u * b + g;
        put(local, place / 2u, packed << (16u * (place % 2u)));
    }
    store(group, local);
}
