// Half a codeword is two weights of eight levels.
const HALF_WEIGHTS: u32 = 2u;
const LEVELS: u32 = 8u;
const LEVEL_BITS: u32 = 3u;
const HALF_BITS: u32 = 6u;
const HALVES: u32 = 64u;
