// Q6_K: d * scale * (code - 32).
const SUB: u32 = 16u;
const SUBS: u32 = 16u;
const BLOCK_WORDS: u32 = 53u;
const LOW: f32 = -32.0;
const HIGH: f32 = 31.0;
const SCALES = ScalePlan(-128.0, 127.0, -128.0, 127.0, 2.0);
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
    let fit = search_symmetric(local, Trials(-38.5, 0.75, 18u), Trials(37.25, -0.75, 18u));
    let b = local % SUBS;
    put_byte(local, 192u + b, bitcast<u32>(i32(fit.integer)) & 255u);
    put(local, 52u, select(0u, f16_bits(fit.d), b == 0u));
    let inverse = reciprocal(fit.d * fit.integer);
    let k = b / 2u;
    let start = 4u * (b % 2u);
    for (var n = 0u; n < SUB; n++) {
        let code = code_of(x[n] * inverse);
        let byte = 8u * (n % 4u);
        let low = 16u * (k / 4u) + 8u * (k % 2u) + start + n / 4u;
        put(local, low, (code & 15u) << (byte + 4u * ((k / 2u) % 2u)));
        put(local, 32u + 8u * (k / 4u) + start + n / 4u, (code >> 4u) << (byte + 2u * (k % 4u)));
    }
    store(group, local);
}
