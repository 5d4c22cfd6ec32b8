// IQ4_XS: d * (scale - 32) * level.
const SUB: u32 = 32u;
const SUBS: u32 = 8u;
const BLOCK_WORDS: u32 = 34u;
const SCALES = ScalePlan(-32.0, 31.0, -32.0, 31.0, 1.0);
#import sub_block
#import iq4_nearest
#import symmetric_super

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let fit = search_symmetric(local, Trials(-190.0, 6.0, 19u), Trials(170.0, -6.0, 18u));
    let b = local % SUBS;
    let scale = u32(fit.integer + 32.0);
    put(local, 0u, ((scale >> 4u) << (16u + 2u * b)) | select(0u, f16_bits(fit.d), b == 0u));
    put(local, 1u, (scale & 15u) << (4u * b));
    let inverse = reciprocal(fit.d * fit.integer);
    for (var n = 0u; n < SUB; n++) {
        // 8 bytes of scales, then 16 of codes for each sub-block: weight n low, n + 16 high
        let shift = 8u * (n % 4u) + 4u * (n / 16u);
        put(local, 2u + 4u * b + (n % 16u) / 4u, code_of(x[n] * inverse) << shift);
    }
    store(group, local);
}
