//! What a source turns out to be.

use std::path::Path;

use anyhow::Result;

use super::{Model, Weights, gguf};
use crate::arch;

/// A model, or all there is of one whose architecture has no forward pass here.
pub enum Opened {
    Model(Box<Model>),
    /// From a GGUF.
    Weights(Weights),
}

impl Opened {
    /// Opens a Hugging Face folder of a known architecture, or a GGUF of any. Fails as [`Model::open`] does on all that is wrong with a
    /// model of a known one.
    pub fn open(path: &Path) -> Result<Opened> {
        if path.is_dir() {
            return Ok(Opened::Model(Box::new(Model::open(path)?)));
        }
        let weights = gguf(path)?;
        let is_unknown = !weights.architecture().is_empty() && arch::by_architecture(weights.architecture()).is_err();
        Ok(match is_unknown {
            true => Opened::Weights(weights),
            false => Opened::Model(Box::new(Model::from_gguf(weights)?)),
        })
    }

    /// What there is in either case.
    pub fn weights(&self) -> &Weights {
        match self {
            Opened::Model(model) => &model.weights,
            Opened::Weights(weights) => weights,
        }
    }
}
