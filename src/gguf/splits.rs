//! Names of the files of a split model: `PREFIX-00001-of-00003.gguf` (llama.cpp `src/llama.cpp`, `llama_split_path`).

use std::path::{Path, PathBuf};

/// Zero-based number of this file (u16).
pub(super) const NO_KEY: &str = "split.no";
/// Number of files (u16).
pub(super) const COUNT_KEY: &str = "split.count";
/// Number of tensors in all files together (i32).
pub(super) const TENSORS_KEY: &str = "split.tensors.count";

/// A file name of a split model, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitName {
    /// Folder and name up to the first dash of the numbering.
    prefix: PathBuf,
    /// One-based number of this file.
    pub number: usize,
    /// Number of files.
    pub count: usize,
}

impl SplitName {
    /// The parts of a path, if its name is that of a split file with a number in range.
    pub fn parse(path: &Path) -> Option<SplitName> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let (number, count) = (five_digits(number)?, five_digits(count)?);
        let in_range = (1..=count).contains(&number);
        in_range.then(|| SplitName { prefix: path.with_file_name(prefix), number, count })
    }

    /// The path of file `number` (one-based).
    pub fn path(&self, number: usize) -> PathBuf {
        let mut name = self.prefix.as_os_str().to_owned();
        name.push(format!("-{number:05}-of-{:05}.gguf", self.count));
        name.into()
    }
}

fn five_digits(text: &str) -> Option<usize> {
    let digits = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}
