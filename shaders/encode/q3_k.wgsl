// Q3_K: d * (scale - 32) * (code - 4).
const SUB: u32 = 16u;
const SUBS: u32 = 16u;
const BLOCK_WORDS: u32 = 28u;
const LOW: f32 = -4.0;
const HIGH: f32 = 3.0;
const SCALES = ScalePlan(-32.0, 31.0, -32.0, 31.0, 1.0);
#import sub_block
#import integer_levels
#import symmetric_super

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let fit = search_symmetric(local, Trials(-12.0, 0.5, 21u), Trials(9.0, -0.375, 21u));
    let b = local % SUBS;
    let scale = u32(fit.integer + 32.0);
    put_byte(local, 96u + b % 8u, (scale & 15u) << (4u * (b / 8u)));
    put_byte(local, 104u + b % 4u, (scale >> 4u) << (2u * (b / 4u)));
    put(local, 27u, select(0u, f16_bits(fit.d), b == 0u));
    let inverse = reciprocal(fit.d * fit.integer);
    // 32 weights share the same bits of 32 bytes, high bits first
    let k = b / 2u;
    let start = 4u * (b % 2u);
    for (var n = 0u; n < SUB; n++) {
        let code = code_of(x[n] * inverse);
        let byte = 8u * (n % 4u);
        put(local, start + n / 4u, (code >> 2u) << (byte + k));
        put(local, 8u + 8u * (k / 4u) + start + n / 4u, (code & 3u) << (byte + 2u * (k % 4u)));
    }
    store(group, local);
}
