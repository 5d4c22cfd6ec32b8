// Where the codewords of IQ1 are, and how they are made.
const GRID_AT = IQ1_GRID;
const WORD_COUNT = IQ1_WORDS;
const GROUPS_AT = IQ1_GROUPS;
const GROUP_COUNT = IQ1_GROUP_COUNT;
const SECONDS_AT = IQ1_SECONDS;
#import codewords
#import ternary_halves
