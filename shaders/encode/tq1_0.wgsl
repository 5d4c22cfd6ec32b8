// TQ1_0: five ternary digits in a byte.
const SUB: u32 = 256u;
const SUBS: u32 = 1u;
const BLOCK_WORDS: u32 = 14u;
const LOW: f32 = -1.0;
const HIGH: f32 = 1.0;
const SIGNED: bool = false;
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
    put(local, 13u, d);
    for (var byte = 0u; byte < 52u; byte++) {
        // the first weight, the distance of its digits and their number
        var run = vec3<u32>(byte, 32u, 5u);
        if byte >= 48u {
            run = vec3<u32>(240u + byte - 48u, 4u, 4u);
        } else if byte >= 32u {
            run = vec3<u32>(160u + byte - 32u, 16u, 5u);
        }
        var number = 0u;
        for (var n = 0u; n < 5u; n++) {
            number *= 3u;
            if n < run.z {
                number += code_of(x[run.x + n * run.y] * inverse);
            }
        }
        // the smallest fraction of 256 that is at least number / 243
        put_byte(local, byte, (number * 256u + 242u) / 243u);
    }
    store(group, local);
}
