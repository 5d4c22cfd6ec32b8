// TQ1_0: five ternary digits in a byte.
const SUB: u32 = 16u;
const SUBS: u32 = 16u;
const BLOCK_WORDS: u32 = 14u;
const LOW: f32 = -1.0;
const HIGH: f32 = 1.0;
const TRIALS: u32 = 3u;
const SIGNED: bool = false;
#import sub_block
#import integer_levels
#import digits
#import ternary_scale

var<workgroup> last_codes: array<u32, LANES>;

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
    put(local, 13u, select(0u, d, lane == 0u));
    // two bytes of the run of 32, one of that of 16
    for (var half = 0u; half < 2u; half++) {
        var number = 0u;
        for (var n = 0u; n < 5u; n++) {
            number = 3u * number + code_of(x[2u * n + half] * inverse);
        }
        put_byte(local, 16u * half + lane, packed_digits(number));
    }
    var number = 0u;
    for (var n = 10u; n < 15u; n++) {
        number = 3u * number + code_of(x[n] * inverse);
    }
    put_byte(local, 32u + lane, packed_digits(number));
    // the last 16 weights are four digits of four bytes
    workgroupBarrier();
    last_codes[local] = code_of(x[15] * inverse);
    workgroupBarrier();
    if lane < 4u {
        number = 0u;
        for (var n = 0u; n < 4u; n++) {
            number = 3u * number + last_codes[local + 4u * n];
        }
        put_byte(local, 48u + lane, packed_digits(3u * number));
    }
    store(group, local);
}
