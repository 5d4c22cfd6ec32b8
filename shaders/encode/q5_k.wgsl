// Q5_K: d * scale * code - d_min * min.
const SUB: u32 = 32u;
const SUBS: u32 = 8u;
const BLOCK_WORDS: u32 = 44u;
const TOP: f32 = 31.0;
const NEGATIVE: bool = true;
const SCALES = ScalePlan(0.0, 63.0, 63.0, 48.0, -1.0);
#import sub_block
#import affine_super
#import put_k_scale

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let fit = search_super(local, Trials(-3.0, 1.0, 6u), Trials(-0.5, 0.25, 10u));
    let b = local % SUBS;
    put(local, 0u, select(0u, f16_bits(fit.d) | (f16_bits(fit.d_min) << 16u), b == 0u));
    put_k_scale(local, b, u32(fit.scale), u32(fit.depth));
    let offset = -(fit.d_min * fit.depth);
    let inverse = reciprocal(fit.d * fit.scale);
    for (var n = 0u; n < SUB; n++) {
        let code = u32(affine_code(x[n], offset, inverse));
        let byte = 8u * (n % 4u);
        put(local, 4u + n / 4u, (code >> 4u) << (byte + b));
        put(local, 12u + 8u * (b / 2u) + n / 4u, (code & 15u) << (byte + 4u * (b % 2u)));
    }
    store(group, local);
}
