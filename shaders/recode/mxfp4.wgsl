// MXFP4.
const SUB: u32 = 32u;
#import decode/mxfp4
#import e2m1_nearest
#import recode_steps
#import put_nibble
#import no_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_nibble(row, 1u, i, code);
}
