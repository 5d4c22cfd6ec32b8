// Q2_K: d * scale * code - d_min * min.
const SUB: u32 = 16u;
const SUBS: u32 = 16u;
const BLOCK_WORDS: u32 = 21u;
const TOP: f32 = 3.0;
const NEGATIVE: bool = true;
const SCALES = ScalePlan(0.0, 15.0, 16.0, 8.5, -0.5);
#import sub_block
#import affine_super

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let fit = search_super(local, Trials(-1.0, 0.5, 8u), Trials(0.0, 0.2, 6u));
    let b = local % SUBS;
    put_byte(local, b, u32(fit.scale) | (u32(fit.depth) << 4u));
    put(local, 20u, select(0u, f16_bits(fit.d) | (f16_bits(fit.d_min) << 16u), b == 0u));
    let offset = -(fit.d_min * fit.depth);
    let inverse = reciprocal(fit.d * fit.scale);
    let k = b / 2u;
    for (var n = 0u; n < SUB; n++) {
        let code = u32(affine_code(x[n], offset, inverse));
        put(local, 4u + 8u * (k / 4u) + 4u * (b % 2u) + n / 4u, code << (8u * (n % 4u) + 2u * (k % 4u)));
    }
    store(group, local);
}
