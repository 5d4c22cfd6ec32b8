//! One file per model family: hyper-parameters, tensor names both ways, transforms, layer graph.
//!
//! A family is a [`layout`], the keys that it adds to those of [`keys`], and llama.cpp's defaults; to add one, write its file and put it
//! into [`FAMILIES`].

mod experts;
mod gemma3;
pub mod hf_config;
pub mod hparams;
mod keys;
mod layout;
mod llama;
mod names;
mod olmo;
mod qwen;
mod ranges;
pub mod rope;
pub mod tensor_class;

use std::ops::Range;

use anyhow::{Result, bail};

use crate::gguf::Metadata;
pub use crate::graph::Expected;
use crate::graph::Graph;
use crate::kernels::rope::RopeStyle;
pub use hf_config::HfConfig;
pub use hparams::Hparams;
use layout::Layout;
pub use names::Place;

/// Every family that has a forward pass.
static FAMILIES: &[&dyn Family] =
    &[&gemma3::Gemma3, &llama::Llama, &llama::SmolLm3, &olmo::Olmo2, &qwen::QWEN2, &qwen::QWEN3, &qwen::QWEN3_MOE];

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
    /// Of each `period` rows `count`, from `first` on: one of several matrices that are kept as one.
    CutRows {
        period: usize,
        first: usize,
        count: usize,
    },
}

impl Transform {
    /// Whether rows change their places.
    pub fn moves_rows(self) -> bool {
        matches!(self, Transform::PairRows { .. } | Transform::CutRows { .. })
    }

    /// The shape of the source of a tensor of this shape, columns first.
    pub fn source_dims(self, dims: &[u64]) -> Vec<u64> {
        let mut dims = dims.to_vec();
        if let (Transform::CutRows { period, count, .. }, Some(rows)) = (self, dims.get_mut(1)) {
            *rows = *rows / count as u64 * period as u64;
        }
        dims
    }

    /// The source rows among which are those that become `wanted` of `rows`: whole heads.
    pub fn source_rows(self, wanted: Range<usize>, rows: usize) -> Range<usize> {
        match self {
            Transform::None | Transform::AddOne => wanted,
            Transform::PairRows { heads } => {
                let head_dim = rows / heads;
                wanted.start / head_dim * head_dim..wanted.end.next_multiple_of(head_dim)
            }
            Transform::CutRows { .. } if wanted.is_empty() => 0..0,
            Transform::CutRows { .. } => self.source_row(wanted.start, rows)..self.source_row(wanted.end - 1, rows) + 1,
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
            Transform::CutRows { period, first, count } => row / count * period + first + row % count,
        }
    }
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

    /// What its layers are made of.
    fn layout(&self) -> &Layout;

    fn rope_style(&self) -> RopeStyle;

    /// The keys that llama.cpp's converter writes from config.json, in its order: `{architecture}.*`, with
    /// `general.file_type` among them.
    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata>;

    /// Tokens that attention sees, where config.json limits them but llama.cpp's metadata have no key for it.
    fn config_window(&self, _config: &HfConfig) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Where a Hugging Face tensor goes: to several places if it is cut into pieces.
    fn places(&self, hf_name: &str) -> Vec<Place> {
        names::places(hf_name, self.layout())
    }

    /// The Hugging Face name of the tensor that goes there; of the first one where they are stacked and no place in the stack is given.
    fn hf_name(&self, place: &Place) -> Option<String> {
        names::hf_name(place, self.layout())
    }

    /// What is done to the Hugging Face tensor that becomes `gguf_name`.
    fn transform(&self, _hparams: &Hparams, _gguf_name: &str) -> Transform {
        Transform::None
    }

    /// Tensors that the converter makes from config.json.
    fn extra_tensors(&self, _config: &HfConfig) -> Result<Vec<Extra>> {
        Ok(Vec::new())
    }

    /// llama.cpp's own defaults, and what its metadata have no key for.
    fn complete(&self, _hparams: &mut Hparams, _metadata: &Metadata) -> Result<()> {
        Ok(())
    }

    /// Hyper-parameters from GGUF metadata, with llama.cpp's defaults. `rows` gives the rows of a tensor, if it is there.
    fn hparams(&self, metadata: &Metadata, rows: &dyn Fn(&str) -> Option<usize>) -> Result<Hparams> {
        let mut hparams = Hparams::read(metadata, self.architecture(), self.rope_style(), rows("token_embd.weight"))?;
        if self.layout().experts.is_none() {
            hparams.check_dense()?;
        }
        if !self.layout().partial_rope {
            hparams.check_whole_heads_rotate()?;
        }
        self.complete(&mut hparams, metadata)?;
        Ok(hparams)
    }

    /// Layer `il` as operations, in GGUF tensor names. Biases are used where `has_tensor` finds them.
    fn layer(&self, hparams: &Hparams, il: usize, has_tensor: &dyn Fn(&str) -> bool) -> Graph {
        layout::layer(hparams, il, self.layout(), has_tensor)
    }

    /// The tensors of a model, with their shapes.
    fn expected(&self, hparams: &Hparams) -> Vec<Expected> {
        let of_layer = |il| self.layer(hparams, il, &|_| true).tensors().to_vec();
        layout::expected_outside(hparams).into_iter().chain((0..hparams.n_layer).flat_map(of_layer)).collect()
    }

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
