//! The weights of one layer on the device.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::rc::Rc;

use anyhow::Result;

use crate::device::Buffer;
use crate::kernels::weight::Weight;

/// How an operation uses a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse<'a> {
    /// In products, in whatever type it has.
    Matrix(&'a str),
    /// The same, one matrix of a stack at a time.
    Stack(&'a str),
    /// As f32 values: norms and biases.
    Vector(&'a str),
}

/// A tensor that a model of some hyper-parameters has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// GGUF name.
    pub name: String,
    /// In ggml's order, columns first.
    pub dims: Vec<u64>,
    /// A model cannot do without it; biases and the like are optional.
    pub required: bool,
}

/// Matrices of one shape.
pub enum Stack<'a> {
    /// All of them, one after the other.
    Whole(Rc<Weight>),
    /// Each is loaded when it is asked for.
    Each(Box<dyn Fn(usize) -> Result<Weight> + 'a>),
}

/// One matrix of a stack: some rows of a weight.
pub struct Part {
    weight: Rc<Weight>,
    pub rows: Range<usize>,
}

impl Deref for Part {
    type Target = Weight;

    fn deref(&self) -> &Weight {
        &self.weight
    }
}

/// By GGUF name.
#[derive(Default)]
pub struct LayerWeights<'a> {
    pub matrices: HashMap<String, Weight>,
    pub stacks: HashMap<String, Stack<'a>>,
    pub vectors: HashMap<String, Buffer>,
}

impl LayerWeights<'_> {
    /// # Panics
    /// If it was not loaded: layers are loaded by what [`super::Graph::weights`] says.
    pub fn matrix(&self, name: &str) -> &Weight {
        &self.matrices[name]
    }

    /// Matrix `index` of a stack of matrices of `rows`.
    ///
    /// # Panics
    /// As [`LayerWeights::matrix`].
    pub fn part(&self, name: &str, index: usize, rows: usize) -> Result<Part> {
        match &self.stacks[name] {
            Stack::Whole(weight) => Ok(Part { weight: weight.clone(), rows: index * rows..(index + 1) * rows }),
            Stack::Each(load) => Ok(Part { weight: Rc::new(load(index)?), rows: 0..rows }),
        }
    }

    /// # Panics
    /// As [`LayerWeights::matrix`].
    pub fn vector(&self, name: &str) -> &Buffer {
        &self.vectors[name]
    }
}
