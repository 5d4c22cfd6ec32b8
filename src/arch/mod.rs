//! One file per model family: hyper-parameters, tensor names both ways, transforms, layer graph.
//!
//! A family is a few facts on top of [`decoder`]; to add one, write its file and put it into [`FAMILIES`].

mod decoder;
mod experts;
mod gemma3;
pub mod hf_config;
pub mod hparams;
mod llama;
mod qwen;
mod ranges;
pub mod rope;
pub mod tensor_class;

use std::ops::Range;

use anyhow::{Result, bail};

use crate::gguf::Metadata;
use crate::graph::Graph;
use crate::kernels::rope::RopeStyle;
pub use hf_config::HfConfig;
pub use hparams::Hparams;

/// Every family that has a forward pass.
static FAMILIES: &[&dyn Family] = &[&gemma3::Gemma3, &llama::Llama, &qwen::QWEN2, &qwen::QWEN3, &qwen::QWEN3_MOE];

/// What is done to a Hugging Face tensor on its way to the GGUF name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    None,
    /// Rows of each of `heads` heads go from halves, (0..hd/2, hd/2..hd), to pairs, (i, i + hd/2):
    /// the order that [`RopeStyle::Norm`] rotates. llama.cpp `conversion/llama.py`, `permute`.
    PairRows {
        heads: usize,
    },
    /// A norm whose weights are kept as their distance from 1.
    AddOne,
}

impl Transform {
    /// Whether rows change their places.
    pub fn moves_rows(self) -> bool {
        matches!(self, Transform::PairRows { .. })
    }

    /// The source rows among which are those that become `wanted` of `rows`: whole heads.
    pub fn source_rows(self, wanted: Range<usize>, rows: usize) -> Range<usize> {
        match self {
            Transform::None | Transform::AddOne => wanted,
            Transform::PairRows { heads } => {
                let head_dim = rows / heads;
                wanted.start / head_dim * head_dim..wanted.end.next_multiple_of(head_dim)
            }
        }
    }

    /// The source row that becomes row `row` of `rows`.
    pub fn source_row(self, row: usize, rows: usize) -> usize {
        match self {
            Transform::None | Transform::AddOne => row,
            Transform::PairRows { heads } => {
                let head_dim = rows / heads;
                let (head, inside) = (row / head_dim, row % head_dim);
                head * head_dim + (inside % 2) * (head_dim / 2) + inside / 2
            }
        }
    }
}

/// A tensor that a model of these hyper-parameters has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// GGUF name.
    pub name: String,
    /// In ggml's order, columns first.
    pub dims: Vec<u64>,
    /// Fails to load without it; biases and the like are optional.
    pub required: bool,
}

/// Where a Hugging Face tensor goes in a GGUF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// GGUF name.
    pub tensor: String,
    /// Its place among those that are stacked in the tensor; none if it is all of it.
    pub index: Option<usize>,
}

/// A tensor that the converter makes from the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Extra {
    /// GGUF name.
    pub name: String,
    pub values: Vec<f32>,
}

/// One model family, in llama.cpp's sense of an architecture.
pub trait Family: Sync {
    /// `general.architecture`.
    fn architecture(&self) -> &'static str;

    /// Names under `architectures` in config.json.
    fn hf_architectures(&self) -> &'static [&'static str];

    /// What transformers' config class has for keys without which nothing is known of a model. Most configs have them all.
    fn config_defaults(&self) -> Vec<(&'static str, serde_json::Value)> {
        Vec::new()
    }

    fn rope_style(&self) -> RopeStyle;

    /// The keys that llama.cpp's converter writes from config.json, in its order: `{architecture}.*`, with
    /// `general.file_type` among them.
    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata>;

    /// Tokens that attention sees, where config.json limits them but llama.cpp's metadata have no key for it.
    fn config_window(&self, _config: &HfConfig) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Where a Hugging Face tensor goes.
    fn place(&self, hf_name: &str) -> Option<Place>;

    /// The Hugging Face name of the tensor that goes there; of the first one where they are stacked and no place in the stack is given.
    fn hf_name(&self, place: &Place) -> Option<String>;

    /// What is done to the Hugging Face tensor that becomes `gguf_name`.
    fn transform(&self, hparams: &Hparams, gguf_name: &str) -> Transform;

    /// Tensors that the converter makes from config.json.
    fn extra_tensors(&self, config: &HfConfig) -> Result<Vec<Extra>>;

    /// Hyper-parameters from GGUF metadata, with llama.cpp's defaults. `rows` gives the rows of a tensor, if it is there.
    fn hparams(&self, metadata: &Metadata, rows: &dyn Fn(&str) -> Option<usize>) -> Result<Hparams>;

    /// The tensors of a model, with their shapes.
    fn expected(&self, hparams: &Hparams) -> Vec<Expected>;

    /// Layer `il` as operations, in GGUF tensor names. Biases are used where `has_tensor` finds them.
    fn layer(&self, hparams: &Hparams, il: usize, has_tensor: &dyn Fn(&str) -> bool) -> Graph;

    /// The norm after the last layer.
    fn output_norm(&self) -> &'static str {
        "output_norm.weight"
    }

    /// The matrix that turns normed hidden states into logits: the embedding where the two are tied.
    fn output(&self, has_tensor: &dyn Fn(&str) -> bool) -> &'static str {
        if has_tensor("output.weight") { "output.weight" } else { "token_embd.weight" }
    }
}

/// Every family, for listings.
pub fn families() -> impl Iterator<Item = &'static dyn Family> {
    FAMILIES.iter().copied()
}

/// The family of a GGUF with this `general.architecture`. Fails with the list of those there are.
pub fn by_architecture(architecture: &str) -> Result<&'static dyn Family> {
    match families().find(|family| family.architecture() == architecture) {
        Some(family) => Ok(family),
        None => {
            let known: Vec<_> = families().map(Family::architecture).collect();
            bail!("unknown model architecture: `{architecture}` (known: {})", known.join(", "))
        }
    }
}

/// The family of a Hugging Face folder with this `architectures` entry. Fails with the list of those there are.
pub fn by_hf_architecture(architecture: &str) -> Result<&'static dyn Family> {
    match families().find(|family| family.hf_architectures().contains(&architecture)) {
        Some(family) => Ok(family),
        None => {
            let known: Vec<_> = families().flat_map(|family| family.hf_architectures()).copied().collect();
            bail!("unknown model architecture in config.json: `{architecture}` (known: {})", known.join(", "))
        }
    }
}
