// TQ2_0: d * (code - 1).
const SUB: u32 = 256u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 17u;
const LOW: f32 = -1.0;
const HIGH: f32 = 2.0;
const SIGNED: bool = true;
#import sub_block
#import integer_levels
#import ternary_scale

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    load(group, local);
    let d = f16_bits(ternary_scale());
    let inverse = reciprocal(unpack2x16float(d).x);
    put(local, 16u, d);
    for (var n = 0u; n < SUB; n++) {
        put_byte(local, 32u * (n / 128u) + n % 32u, code_of(x[n] * inverse) << (2u * ((n / 32u) % 4u)));
    }
    store(group, local);
}
