// TQ1_0: five ternary digits in a byte.
const SUB: u32 = 256u;
const LOW: f32 = -1.0;
const HIGH: f32 = 1.0;
const D_AT: u32 = 8u * 52u;
#import decode/tq1_0
#import integer_levels
#import digits
#import recode_steps
#import one_scale

// Packs the byte whose first digit is that of weight i.
fn put_code(row: u32, i: u32, code: u32) {
    let run = run_of(i);
    let byte = i - run.x;
    if byte >= run.z {
        return;
    }
    var number = code;
    for (var n = 1u; n < 5u; n++) {
        let other = i + n * run.z;
        // the last run has four digits in a byte
        number = 3u * number + select(0u, code_at(row, min(other, BLOCK_LEN - 1u)), other < BLOCK_LEN);
    }
    put_bits(row, 8u * (run.y + byte), 8u, packed_digits(number));
}
