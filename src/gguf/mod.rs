//! The GGUF container: values, reader, writer, splits.
