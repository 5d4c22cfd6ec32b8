//! Text to token ids, and the vocabulary as GGUF metadata.
