// Packs the 6-bit scale and min of sub-block b of Q4_K and Q5_K, words 1 to 3 of the block. Twin: `pack_scales`.
fn put_k_scale(local: u32, b: u32, scale: u32, depth: u32) {
    let shift = 8u * (b % 4u);
    if b < 4u {
        put(local, 1u, scale << shift);
        put(local, 2u, depth << shift);
    } else {
        put(local, 1u, (scale >> 4u) << (shift + 6u));
        put(local, 2u, (depth >> 4u) << (shift + 6u));
        put(local, 3u, ((scale & 15u) | ((depth & 15u) << 4u)) << shift);
    }
}
