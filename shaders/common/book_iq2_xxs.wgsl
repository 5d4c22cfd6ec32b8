// Where the codewords of IQ2_XXS are, and how they are made.
const PARITY: u32 = 1u;
const GRID_AT = IQ2_XXS_GRID;
const WORD_COUNT = IQ2_XXS_WORDS;
const GROUPS_AT = IQ2_XXS_GROUPS;
const GROUP_COUNT = IQ2_XXS_GROUP_COUNT;
const SECONDS_AT = IQ2_XXS_SECONDS;
#import codewords
#import ternary_halves
