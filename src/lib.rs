//! `dq-gpu` turns a full-precision language model into the best GGUF of a given size.
//!
//! Data flows one way: [`source`] -> [`forward`] (with [`imatrix`] taps) -> [`sensitivity`] -> [`plan`] ->
//! [`quant`] -> [`gguf`] -> [`kld`]; [`pipeline`] runs the steps. Formats ([`quant`], [`gguf`]), model families
//! ([`arch`]) and devices ([`device`], [`kernels`]) serve them all. `docs/architecture.md` is the map.

// they panic where nobody reads any more, and let control characters through: see `cli::terminal`
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod arch;
pub mod calibration;
pub mod cli;
pub mod device;
pub mod files;
pub mod forward;
pub mod gguf;
pub mod graph;
pub mod imatrix;
mod json;
pub mod kernels;
pub mod kld;
pub mod memory_limit;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod quant;
mod random;
pub mod rounding;
pub mod sensitivity;
pub mod source;
pub mod tokenizer;
mod whole_file;
