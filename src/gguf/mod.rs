//! The GGUF container: values, reader, writer, splits.

mod value;
pub use value::*;
