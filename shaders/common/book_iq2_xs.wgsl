// Where the codewords of IQ2_XS are, and how they are made.
const PARITY: u32 = 1u;
const GRID_AT = IQ2_XS_GRID;
const WORD_COUNT = IQ2_XS_WORDS;
const GROUPS_AT = IQ2_XS_GROUPS;
const GROUP_COUNT = IQ2_XS_GROUP_COUNT;
const SECONDS_AT = IQ2_XS_SECONDS;
#import codewords
#import ternary_halves
