// The codewords of the IQ formats, which the device binds for every shader that imports this file.
// Layout: `src/quant/codebook/tables.rs`.
@group(1) @binding(0) var<storage, read> codewords: array<u32>;

const IQ1_GRID: u32 = 0u;
const IQ2_XXS_GRID: u32 = 1024u;
const IQ2_XS_GRID: u32 = 1152u;
const IQ2_S_GRID: u32 = 1408u;
const IQ3_XXS_GRID: u32 = 1920u;
const IQ3_S_GRID: u32 = 2048u;
const IQ1_GROUPS: u32 = 2304u;
const IQ1_GROUP_COUNT: u32 = 81u;
const IQ1_BOOK: u32 = 2385u;
const IQ2_XXS_GROUPS: u32 = 4433u;
const IQ2_XXS_GROUP_COUNT: u32 = 64u;
const IQ2_XXS_BOOK: u32 = 4497u;
const IQ2_XS_GROUPS: u32 = 4753u;
const IQ2_XS_GROUP_COUNT: u32 = 81u;
const IQ2_XS_BOOK: u32 = 4834u;
const IQ2_S_GROUPS: u32 = 5346u;
const IQ2_S_GROUP_COUNT: u32 = 80u;
const IQ2_S_BOOK: u32 = 5426u;
const IQ3_XXS_GROUPS: u32 = 6450u;
const IQ3_XXS_GROUP_COUNT: u32 = 60u;
const IQ3_XXS_BOOK: u32 = 6510u;
const IQ3_S_GROUPS: u32 = 6766u;
const IQ3_S_GROUP_COUNT: u32 = 64u;
const IQ3_S_BOOK: u32 = 6830u;

// The packed levels of a codeword of a grid.
fn codeword(grid: u32, number: u32) -> u32 {
    return (codewords[grid + number / 2u] >> (16u * (number % 2u))) & 0xFFFFu;
}
