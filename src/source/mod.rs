//! Where tensors come from: a Hugging Face folder or a GGUF, presented alike.
