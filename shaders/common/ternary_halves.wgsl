// Half a codeword is four weights of three levels.
const HALF_WEIGHTS: u32 = 4u;
const LEVELS: u32 = 3u;
const LEVEL_BITS: u32 = 2u;
const HALF_BITS: u32 = 8u;
const HALVES: u32 = 171u;
