// IQ4_NL.
const SUB: u32 = 32u;
const D_AT: u32 = 0u;
#import decode/iq4_nl
#import iq4_nearest
#import recode_steps
#import put_nibble
#import one_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_nibble(row, 2u, i, code);
}
