//! The GGUF container: values, reader, writer, splits.
//!
//! Facts about the format are from llama.cpp `ggml/include/gguf.h` and `ggml/src/gguf.cpp`.

mod cursor;
mod file;
mod header;
mod inspect;
mod metadata;
mod splits;
mod text;
mod value;
mod writer;

pub use file::GgufFile;
pub use header::TensorInfo;
pub use inspect::{Summary, TensorSummary, TypeSummary};
pub use metadata::Metadata;
pub use splits::SplitName;
pub use value::{Array, Value};
pub use writer::{GgufWriter, TensorPlan, file_size};

/// The first four bytes of a GGUF.
const MAGIC: &[u8; 4] = b"GGUF";
/// The version that is written. Version 2 has the same layout and is read too.
const VERSION: u32 = 3;
/// Padding of the data section and of every tensor, where the metadata do not say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// `general.alignment`: u32, a power of two.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Longest tensor name in bytes (`GGML_MAX_NAME` less its NUL).
pub const MAX_NAME: usize = 63;
/// Most dimensions of a tensor (`GGML_MAX_DIMS`).
const MAX_DIMS: usize = 4;
/// Longest array or string that llama.cpp's reader takes.
const MAX_LEN: u64 = 1 << 30;

/// `value` rounded up to a multiple of `alignment` (a power of two), or `None` past the largest u64.
fn align_up(value: u64, alignment: u64) -> Option<u64> {
    value.checked_next_multiple_of(alignment)
}
