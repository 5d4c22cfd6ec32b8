// Q1_0: plus or minus d, the weighted mean magnitude.
const SUB: u32 = 128u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 5u;
#import sub_block

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    var sum = 0.0;
    var weight = 0.0;
    for (var n = 0u; n < SUB; n++) {
        sum += opaque(w[n] * abs(x[n]));
        weight += w[n];
        put_byte(local, 2u + n / 8u, select(0u, 1u << (n % 8u), x[n] >= 0.0));
    }
    put(local, 0u, f16_bits(sum / weight));
    store(group, local);
}
