// Where the codewords of IQ2_S are, and how they are made.
const PARITY: u32 = 0u;
const GRID_AT = IQ2_S_GRID;
const WORD_COUNT = IQ2_S_WORDS;
const GROUPS_AT = IQ2_S_GROUPS;
const GROUP_COUNT = IQ2_S_GROUP_COUNT;
const SECONDS_AT = IQ2_S_SECONDS;
#import codewords
#import ternary_halves
