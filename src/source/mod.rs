//! Where tensors come from: a Hugging Face folder or a GGUF, presented alike.
//!
//! Tensors have their GGUF names and layouts whatever the source; bytes are mapped and read when asked for.

mod container;
mod general;
mod gguf;
mod hf;
mod model_card;
mod naming;
mod weights;

use std::ops::Deref;
use std::path::Path;

use anyhow::{Context, Result};

use crate::arch::{self, Family, Hparams};
pub use container::{Container, Stored};
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

impl Model {
    /// Opens a Hugging Face folder or a GGUF.
    ///
    /// Fails, naming the file or the tensor, if anything is missing, damaged or of the wrong shape, or if the
    /// architecture has no forward pass here ([`Weights::open`] then still reads a GGUF).
    pub fn open(path: &Path) -> Result<Model> {
        if path.is_dir() { hf::open(path) } else { Model::from_gguf(Weights::open(path)?) }
    }

    fn from_gguf(weights: Weights) -> Result<Model> {
        let open = || -> Result<(Hparams, &'static dyn Family)> {
            let family = arch::by_architecture(weights.metadata.require_str("general.architecture")?)?;
            let rows = |name: &str| weights.tensor(name).map(|tensor| tensor.rows);
            let hparams = family.hparams(&weights.metadata, &rows)?;
            weights.check_shapes(&family.expected(&hparams))?;
            Ok((hparams, family))
        };
        let (hparams, family) =
            open().with_context(|| format!("cannot use the model: `{}`", weights.path.display()))?;
        Ok(Model { weights, hparams, family })
    }

    /// Whether the model has a tensor of this name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    /// The matrix that turns hidden states into logits.
    pub fn output_tensor(&self) -> &str {
        self.family.output(&|name| self.has_tensor(name))
    }

    /// The values of `rope_freqs.weight`, if the model has it.
    ///
    /// Fails as [`Weights::f32_rows`] does.
    pub fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        self.tensor("rope_freqs.weight").map(|tensor| self.f32_rows(tensor, 0..tensor.rows)).transpose()
    }
}
