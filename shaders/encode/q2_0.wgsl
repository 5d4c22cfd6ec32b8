// Q2_0: d * (code - 1).
const SUB: u32 = 4u;
const SUBS: u32 = 16u;
const BLOCK_WORDS: u32 = 5u;
const LOW: f32 = -1.0;
const HIGH: f32 = 2.0;
const TRIALS: u32 = 2u;
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
    load_interleaved(group, local);
    let d = f16_bits(ternary_scale(local));
    let inverse = reciprocal(unpack2x16float(d).x);
    let lane = local % SUBS;
    put(local, 0u, select(0u, d, lane == 0u));
    for (var n = 0u; n < SUB; n++) {
        let i = SUBS * n + lane;
        put_byte(local, 2u + i / 4u, code_of(x[n] * inverse) << (2u * (i % 4u)));
    }
    store(group, local);
}
