//! The passes through a model against Hugging Face transformers and llama.cpp.
//!
//! `tests/fixtures/golden/NAME.{json,f32,layers.json}` come from `tests/interop/make_golden.py`.

#[path = "forward/backward.rs"]
mod backward;
mod common;
#[path = "forward/divergence.rs"]
mod divergence;
#[path = "forward/golden.rs"]
mod golden;
#[path = "forward/inputs.rs"]
mod inputs;
#[path = "forward/logits.rs"]
mod logits;
#[path = "forward/memory.rs"]
mod memory;
#[path = "forward/quantized.rs"]
mod quantized;
