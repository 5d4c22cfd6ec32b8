//! Reproducible randomness, the same on every machine: SplitMix64 (Steele, Lea and Flood, 2014).

/// Added to the state at each step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Number `index` of the sequence that begins at `seed`.
pub(crate) fn splitmix64(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(STEP));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
