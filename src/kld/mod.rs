//! Divergence between two models: statistics over scored tokens ([`stats`], [`interval`], [`report`]) and llama.cpp's
//! file of base log-probabilities ([`logits_file`]).

pub mod interval;
pub mod logits_file;
pub mod report;
pub mod stats;

pub use interval::{Comparison, compare};
pub use logits_file::{LogitsFile, LogitsWriter};
pub use report::{Domain, Report};
pub use stats::{Statistics, TokenRecord};
