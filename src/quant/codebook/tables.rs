//! The codewords as the shaders read them: one buffer of words that every device holds. `shaders/common/codewords.wgsl` knows
//! where each table begins.

use super::book::{self, Book};
use super::grids;

const GRIDS: [(&str, &[u16]); 6] = [
    ("IQ1", &grids::IQ1_S),
    ("IQ2_XXS", &grids::IQ2_XXS),
    ("IQ2_XS", &grids::IQ2_XS),
    ("IQ2_S", &grids::IQ2_S),
    ("IQ3_XXS", &grids::IQ3_XXS),
    ("IQ3_S", &grids::IQ3_S),
];

const BOOKS: [(&str, &Book); 6] = [
    ("IQ1", &book::IQ1),
    ("IQ2_XXS", &book::IQ2_XXS),
    ("IQ2_XS", &book::IQ2_XS),
    ("IQ2_S", &book::IQ2_S),
    ("IQ3_XXS", &book::IQ3_XXS),
    ("IQ3_S", &book::IQ3_S),
];

/// Per format the grid, two codewords in a word; then the groups of the book, and their second halves. Each with the
/// name of the constant that tells where it begins.
fn tables() -> impl Iterator<Item = (String, Vec<u32>)> {
    let pair = |[low, high]: &[u16; 2]| *low as u32 | (*high as u32) << 16;
    let grids =
        GRIDS.iter().map(move |(name, grid)| (format!("{name}_GRID"), grid.as_chunks().0.iter().map(pair).collect()));
    let books = BOOKS.iter().flat_map(|(name, book)| {
        [(format!("{name}_GROUPS"), book.packed_groups()), (format!("{name}_SECONDS"), book.packed_seconds())]
    });
    grids.chain(books)
}

/// The content of the buffer.
pub fn device_tables() -> Vec<u32> {
    tables().flat_map(|(_, words)| words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shaders_know_where_tables_begin() {
        let text = include_str!("../../../shaders/common/codewords.wgsl");
        let mut start = 0;
        for (name, words) in tables() {
            let line = format!("const {name}: u32 = {start}u;");
            assert!(text.contains(&line), "missing: {line}");
            start += words.len();
        }
        for (name, book) in BOOKS {
            let line = format!("const {name}_GROUP_COUNT: u32 = {}u;", book.packed_groups().len());
            assert!(text.contains(&line), "missing: {line}");
        }
    }
}
