//! Codewords arranged for search: split into two halves, grouped by equal first halves.

use super::grids;

/// Most different first halves: 3^4 or 8^2.
const MAX_HALVES: usize = 81;

/// A codeword as the grids write it: the levels of its weights, the first lowest.
pub type Word = u32;

/// Codewords sorted by first half.
pub struct Book {
    /// Bits of a half.
    pub half_bits: u32,
    groups: [Group; MAX_HALVES],
    group_count: usize,
    /// Second half and number in the file of each codeword.
    seconds: &'static [u8],
    numbers: &'static [u16],
}

/// Codewords that begin with the same half.
#[derive(Clone, Copy)]
struct Group {
    first: u8,
    start: u16,
    end: u16,
}

pub static IQ1: Book = IQ1_SORTED.book();
pub static IQ2_XXS: Book = IQ2_XXS_SORTED.book();
pub static IQ2_XS: Book = IQ2_XS_SORTED.book();
pub static IQ2_S: Book = IQ2_S_SORTED.book();
pub static IQ3_XXS: Book = IQ3_XXS_SORTED.book();
pub static IQ3_S: Book = IQ3_S_SORTED.book();

static IQ1_SORTED: Sorted<2048> = Sorted::new(&grids::IQ1_S, 8);
static IQ2_XXS_SORTED: Sorted<256> = Sorted::new(&grids::IQ2_XXS, 8);
static IQ2_XS_SORTED: Sorted<512> = Sorted::new(&grids::IQ2_XS, 8);
static IQ2_S_SORTED: Sorted<1024> = Sorted::new(&grids::IQ2_S, 8);
static IQ3_XXS_SORTED: Sorted<256> = Sorted::new(&grids::IQ3_XXS, 6);
static IQ3_S_SORTED: Sorted<512> = Sorted::new(&grids::IQ3_S, 6);

/// What a [`Book`] refers to.
struct Sorted<const WORDS: usize> {
    half_bits: u32,
    groups: [Group; MAX_HALVES],
    group_count: usize,
    seconds: [u8; WORDS],
    numbers: [u16; WORDS],
}

impl<const WORDS: usize> Sorted<WORDS> {
    /// Counting sort by first half; codewords of a group stay in the order of the file.
    const fn new(grid: &[u16; WORDS], half_bits: u32) -> Self {
        let halves = 1 << half_bits;
        let mut next = [0u16; 257];
        let mut k = 0;
        while k < WORDS {
            next[grid[k] as usize % halves + 1] += 1;
            k += 1;
        }
        let mut groups = [Group { first: 0, start: 0, end: 0 }; MAX_HALVES];
        let mut group_count = 0;
        let mut first = 0;
        while first < halves {
            let (start, size) = (next[first], next[first + 1]);
            next[first + 1] += start;
            if size > 0 {
                groups[group_count] = Group { first: first as u8, start, end: start + size };
                group_count += 1;
            }
            first += 1;
        }
        let mut sorted = Sorted { half_bits, groups, group_count, seconds: [0; WORDS], numbers: [0; WORDS] };
        k = 0;
        while k < WORDS {
            let first = grid[k] as usize % halves;
            sorted.seconds[next[first] as usize] = (grid[k] >> half_bits) as u8;
            sorted.numbers[next[first] as usize] = k as u16;
            next[first] += 1;
            k += 1;
        }
        sorted
    }

    const fn book(&'static self) -> Book {
        Book {
            half_bits: self.half_bits,
            groups: self.groups,
            group_count: self.group_count,
            seconds: &self.seconds,
            numbers: &self.numbers,
        }
    }
}

impl Book {
    /// Each first half, and the second halves that follow it.
    #[inline(always)]
    pub fn groups(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let groups = self.groups[..self.group_count].iter();
        groups.map(|group| (group.first, &self.seconds[group.start as usize..group.end as usize]))
    }

    /// Groups for shaders: first half in 8 bits, start and end among [`Book::packed_seconds`] in 12 each.
    pub fn packed_groups(&self) -> Vec<u32> {
        let mut end = 0;
        let pack = |(first, seconds): (u8, &[u8])| {
            let start = end;
            end += seconds.len().div_ceil(4) as u32;
            first as u32 | start << 8 | end << 20
        };
        self.groups().map(pack).collect()
    }

    /// Second halves for shaders: four in a word, the last of a group as often as it takes to fill the word.
    pub fn packed_seconds(&self) -> Vec<u32> {
        let pack = |four: &[u8]| u32::from_le_bytes(std::array::from_fn(|i| four[i.min(four.len() - 1)]));
        self.groups().flat_map(|(_, seconds)| seconds.chunks(4)).map(pack).collect()
    }

    /// The number in the file of a codeword, which must be in the book.
    pub fn number(&self, word: Word) -> u16 {
        let first = word as usize % (1 << self.half_bits);
        let second = word >> self.half_bits;
        let group = self.groups[..self.group_count].iter().find(|group| group.first as usize == first);
        let range = group.map_or(0..0, |group| group.start as usize..group.end as usize);
        range.clone().find(|k| self.seconds[*k] as u32 == second).map_or(0, |k| self.numbers[k])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codeword_is_found_under_its_number() {
        let books: [(&Book, &[u16]); 6] = [
            (&IQ1, &grids::IQ1_S),
            (&IQ2_XXS, &grids::IQ2_XXS),
            (&IQ2_XS, &grids::IQ2_XS),
            (&IQ2_S, &grids::IQ2_S),
            (&IQ3_XXS, &grids::IQ3_XXS),
            (&IQ3_S, &grids::IQ3_S),
        ];
        for (book, grid) in books {
            for (number, word) in grid.iter().enumerate() {
                assert_eq!(book.number(*word as Word), number as u16);
            }
            assert_eq!(book.groups().map(|(_, seconds)| seconds.len()).sum::<usize>(), grid.len());
        }
    }
}
