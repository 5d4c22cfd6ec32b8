//! One file per model family: hyper-parameters, tensor names both ways, transforms, layer graph.
//!
//! A family is a [`layout`], the keys that it adds to those of [`keys`], and llama.cpp's defaults; to add one, write its file and put it
//! into [`FAMILIES`].

mod cohere;
mod deepseek;
mod experts;
mod gemma;
mod gemma2;
mod gemma3;
mod glm;
mod gpt_oss;
mod granite;
pub mod hf_config;
pub mod hparams;
mod keys;
mod layout;
pub mod linear;
mod llama;
mod names;
mod olmo;
mod phi;
mod qwen;
mod qwen_next;
mod ranges;
pub mod rope;
pub mod tensor_class;

use anyhow::{Result, bail};

use crate::gguf::Metadata;
pub use crate::graph::Expected;
use crate::graph::Graph;
use crate::kernels::rope::RopeStyle;
pub use hf_config::HfConfig;
pub use hparams::{Hparams, Keys};
use layout::Layout;
pub use names::Place;

/// Every family that has a forward pass.
static FAMILIES: &[&dyn Family] = &[
    &cohere::Cohere2,
    &deepseek::DeepSeek2,
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &glm::Glm4,
    &glm::Glm4Moe,
    &gpt_oss::GptOss,
    &granite::GRANITE,
    &granite::GRANITE_MOE,
    &llama::Llama,
    &olmo::Olmo2,
    &phi::Phi3,
    &qwen::QWEN2,
    &qwen::QWEN2_MOE,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &qwen_next::Qwen3Next,
    &llama::SmolLm3,
];

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
    /// Row r of each matrix of a stack is column `step r + first` of the first of each `period` rows.
    Transposed {
        step: usize,
        first: usize,
        period: usize,
    },
    /// Element i of each row is the one at `step i + first`.
    EachColumn {
        step: usize,
        first: usize,
    },
    /// Each `period` rows begin with parts of these sizes: the first parts of all come first, then all second ones, then all third ones.
    SortedRows {
        period: usize,
        counts: [usize; 3],
    },
    /// The weights of a convolution, with a dimension of 1 between the others.
    Squeezed,
    /// x becomes -exp(x).
    MinusExp,
}

impl Transform {
    /// Whether it makes other numbers, not only another order of them.
    pub fn computes(self) -> bool {
        matches!(self, Transform::AddOne | Transform::MinusExp)
    }

    /// Whether the source may have a stack of matrices as one.
    pub fn flattens(self) -> bool {
        matches!(self, Transform::CutRows { .. } | Transform::Transposed { .. })
    }

    /// The same for a source whose rows are what its columns are here.
    pub fn by_rows(self) -> Transform {
        match self {
            Transform::Transposed { step: 1, .. } => Transform::None,
            Transform::Transposed { step, first, .. } => Transform::CutRows { period: step, first, count: 1 },
            other => other,
        }
    }

    /// The shape of the source of a tensor of this shape, columns first.
    pub fn source_dims(self, dims: &[u64]) -> Vec<u64> {
        let mut dims = dims.to_vec();
        match self {
            Transform::None | Transform::AddOne | Transform::MinusExp | Transform::PairRows { .. } => {}
            Transform::Squeezed => dims.insert(1, 1),
            Transform::SortedRows { period, counts } => {
                dims[1] = dims[1] / counts.iter().sum::<usize>() as u64 * period as u64;
            }
            Transform::CutRows { period, count, .. } => dims[1] = dims[1] / count as u64 * period as u64,
            Transform::Transposed { step, period, .. } => {
                dims[0] = dims[1] * step as u64;
                dims[1] = period as u64;
            }
            Transform::EachColumn { step, .. } => dims[0] *= step as u64,
        }
        dims
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
    fn complete(&self, _hparams: &mut Hparams, _keys: &Keys) -> Result<()> {
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
        hparams.norm = self.layout().norm;
        self.complete(&mut hparams, &Keys { metadata, architecture: self.architecture() })?;
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
            bail!(
                "unknown model architecture: `{architecture}` (known: {}); `dq-gpu quantize` takes a GGUF of any, without a proof",
                known.join(", ")
            )
        }
    }
}

/// The family of a Hugging Face folder with this `architectures` entry. Fails with the list of those there are.
pub fn by_hf_architecture(architecture: &str) -> Result<&'static dyn Family> {
    match families().find(|family| family.hf_architectures().contains(&architecture)) {
        Some(family) => Ok(family),
        None => {
            let known: Vec<_> = families().flat_map(|family| family.hf_architectures()).copied().collect();
            bail!(
                "unknown model architecture in config.json: `{architecture}` (known: {}); make a GGUF of it with llama.cpp's \
                 convert_hf_to_gguf.py, which `dq-gpu quantize` takes whatever the architecture",
                known.join(", ")
            )
        }
    }
}
