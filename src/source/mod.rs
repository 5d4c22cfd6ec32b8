//! Where tensors come from: a Hugging Face folder or a GGUF, presented alike.
//!
//! Tensors have their GGUF names and layouts whatever the source; bytes are mapped and read when asked for.

mod checkpoint;
mod container;
mod general;
mod gguf;
mod hf;
mod location;
mod model_card;
mod naming;
mod opened;
mod packed;
mod rearranged;
mod safetensors;
mod stacks;
mod weights;

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::arch::rope::FACTORS;
use crate::arch::tensor_class::may_quantize;
use crate::arch::{self, Family, Hparams};
use crate::graph::Graph;
use crate::quant::GgmlType;
pub(crate) use checkpoint::listing;
pub use container::{Container, Stored};
pub use location::{download_hint, folder_name};
pub use opened::Opened;
use weights::check_layers;
pub use weights::{Tensor, Weights};

/// A model that can be run: its weights, and what is needed to compute with them.
///
/// The fields and methods of [`Weights`] (`path`, `metadata`, `tensors`, `bytes`, `f32_rows`, ...) are this type's too.
pub struct Model {
    pub weights: Weights,
    pub hparams: Hparams,
    pub family: &'static dyn Family,
}

impl Deref for Model {
    type Target = Weights;

    fn deref(&self) -> &Weights {
        &self.weights
    }
}

/// The metadata key that says what the tensors are to be computed with.
const ARCHITECTURE: &str = "general.architecture";

impl Weights {
    /// The name of the architecture; empty where the metadata do not tell.
    pub fn architecture(&self) -> &str {
        self.metadata.str(ARCHITECTURE).unwrap_or_default()
    }

    /// Whether there is a tensor of this name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    /// The tensors that quantization changes.
    pub fn quantizable(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().filter(|tensor| may_quantize(&tensor.name, &tensor.dims, self.architecture()))
    }

    /// The quantized types among the weights that quantization would change, such as `Q4_K, Q6_K`; none in full precision. Weights
    /// in floats are full precision whatever grid they lie on.
    pub fn quantized_types(&self) -> Option<String> {
        let types: BTreeSet<GgmlType> =
            self.quantizable().map(|tensor| tensor.ty).filter(|ty| ty.is_quantized()).collect();
        let names = types.iter().map(|ty| ty.name()).collect::<Vec<_>>().join(", ");
        (!types.is_empty()).then_some(names)
    }
}

/// The weights of a GGUF. Of a file that is something else, the error says what.
fn gguf(path: &Path) -> Result<Weights> {
    Weights::open(path).map_err(|error| location::not_a_gguf(path).unwrap_or(error))
}

/// What rotary frequencies may be divided by.
const ROPE_FACTORS: std::ops::RangeInclusive<f32> = 1e-6..=1e6;

impl Model {
    /// Opens a Hugging Face folder or a GGUF.
    ///
    /// Fails, naming the file or the tensor, if anything is missing, damaged or of the wrong shape, or if the
    /// architecture has no forward pass here ([`Weights::open`] then still reads a GGUF).
    pub fn open(path: &Path) -> Result<Model> {
        if path.is_dir() {
            return hf::open(path);
        }
        Model::from_gguf(gguf(path)?)
    }

    fn from_gguf(weights: Weights) -> Result<Model> {
        let open = || -> Result<(Hparams, &'static dyn Family)> {
            let family = arch::by_architecture(weights.metadata.require_str(ARCHITECTURE)?)?;
            let rows = |name: &str| weights.tensor(name).map(|tensor| tensor.rows);
            let hparams = family.hparams(&weights.metadata, &rows)?;
            check_layers(&hparams, weights.tensors.len())?;
            weights.check_shapes(&family.expected(&hparams))?;
            Ok((hparams, family))
        };
        let (hparams, family) =
            open().with_context(|| format!("cannot use the model: `{}`", weights.path.display()))?;
        Ok(Model { weights, hparams, family })
    }

    /// Layer `il` as operations.
    pub fn layer(&self, il: usize) -> Graph {
        self.family.layer(&self.hparams, il, &|name| self.has_tensor(name))
    }

    /// The matrix that turns hidden states into logits.
    pub fn output_tensor(&self) -> &str {
        self.family.output(&|name| self.has_tensor(name))
    }

    /// What the angles of rotary embedding are divided by in sequences of this length, if the model has a tensor of it.
    ///
    /// Fails as [`Weights::f32_rows`] does.
    pub fn rope_factors(&self, seq_len: usize) -> Result<Option<Vec<f32>>> {
        let by_context = || self.tensor(self.hparams.rope.factors_by_context(seq_len));
        let Some(tensor) = self.tensor(FACTORS[0]).or_else(by_context) else { return Ok(None) };
        let factors = self.f32_rows(tensor, 0..tensor.rows)?;
        // each divides an angle
        if let Some(factor) = factors.iter().find(|factor| !ROPE_FACTORS.contains(factor)) {
            bail!("tensor `{}` holds a factor of {factor}: `{}`", tensor.name, self.path.display());
        }
        Ok(Some(factors))
    }
}
