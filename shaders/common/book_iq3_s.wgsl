// Where the codewords of IQ3_S are, and how they are made.
const PARITY: u32 = 0u;
const GRID_AT = IQ3_S_GRID;
const WORD_COUNT = IQ3_S_WORDS;
const GROUPS_AT = IQ3_S_GROUPS;
const GROUP_COUNT = IQ3_S_GROUP_COUNT;
const SECONDS_AT = IQ3_S_SECONDS;
#import codewords
#import octal_halves
