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
const IQ1_SECONDS: u32 = 2385u;
const IQ1_WORDS: u32 = 2048u;
const IQ2_XXS_GROUPS: u32 = 2929u;
const IQ2_XXS_GROUP_COUNT: u32 = 64u;
const IQ2_XXS_SECONDS: u32 = 2993u;
const IQ2_XXS_WORDS: u32 = 256u;
const IQ2_XS_GROUPS: u32 = 3090u;
const IQ2_XS_GROUP_COUNT: u32 = 81u;
const IQ2_XS_SECONDS: u32 = 3171u;
const IQ2_XS_WORDS: u32 = 512u;
const IQ2_S_GROUPS: u32 = 3333u;
const IQ2_S_GROUP_COUNT: u32 = 80u;
const IQ2_S_SECONDS: u32 = 3413u;
const IQ2_S_WORDS: u32 = 1024u;
const IQ3_XXS_GROUPS: u32 = 3700u;
const IQ3_XXS_GROUP_COUNT: u32 = 60u;
const IQ3_XXS_SECONDS: u32 = 3760u;
const IQ3_XXS_WORDS: u32 = 256u;
const IQ3_S_GROUPS: u32 = 3846u;
const IQ3_S_GROUP_COUNT: u32 = 64u;
const IQ3_S_SECONDS: u32 = 3910u;
const IQ3_S_WORDS: u32 = 512u;

// The packed levels of a codeword of a grid.
fn codeword(grid: u32, number: u32) -> u32 {
    return (codewords[grid + number / 2u] >> (16u * (number % 2u))) & 0xFFFFu;
}
