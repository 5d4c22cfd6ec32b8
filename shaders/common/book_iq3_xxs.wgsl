// Where the codewords of IQ3_XXS are, and how they are made.
const PARITY: u32 = 2u;
const GRID_AT = IQ3_XXS_GRID;
const WORD_COUNT = IQ3_XXS_WORDS;
const GROUPS_AT = IQ3_XXS_GROUPS;
const GROUP_COUNT = IQ3_XXS_GROUP_COUNT;
const SECONDS_AT = IQ3_XXS_SECONDS;
#import codewords
#import octal_halves
