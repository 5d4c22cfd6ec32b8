//! The weights of one layer on the device.

use std::collections::HashMap;

use crate::device::Buffer;
use crate::kernels::weight::Weight;

/// How an operation uses a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse<'a> {
    /// In products, in whatever type it has.
    Matrix(&'a str),
    /// As f32 values: norms and biases.
    Vector(&'a str),
}

/// By GGUF name.
#[derive(Default)]
pub struct LayerWeights {
    pub matrices: HashMap<String, Weight>,
    pub vectors: HashMap<String, Buffer>,
}

impl LayerWeights {
    /// # Panics
    /// If it was not loaded: layers are loaded by what [`super::Graph::weights`] says.
    pub fn matrix(&self, name: &str) -> &Weight {
        &self.matrices[name]
    }

    /// # Panics
    /// As [`LayerWeights::matrix`].
    pub fn vector(&self, name: &str) -> &Buffer {
        &self.vectors[name]
    }
}
