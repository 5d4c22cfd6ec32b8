// IQ4_XS.
const SUB: u32 = 32u;
#import decode/iq4_xs
#import iq4_nearest
#import recode_steps
#import put_nibble

fn put_code(row: u32, i: u32, code: u32) {
    put_nibble(row, 8u + 16u * (i / 32u), i % 32u, code);
}
