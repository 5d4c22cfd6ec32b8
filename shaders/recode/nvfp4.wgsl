// NVFP4: weights j and j + 8 of each 16 in a byte.
const SUB: u32 = 16u;
#import decode/nvfp4
#import e2m1_nearest
#import recode_steps
#import no_scale

fn put_code(row: u32, i: u32, code: u32) {
    put_bits(row, 8u * (4u + 8u * (i / 16u) + i % 8u) + 4u * ((i / 8u) % 2u), 4u, code);
}
