//! A decoder layer as operations on numbered values, each written once.
//!
//! [`Builder`] makes a [`Graph`]: a family composes it (`arch`). [`run`] carries values forward and shows a [`Tap`] what linear
//! operations read, [`back`] carries gradients the other way. What an operation is stands in one file of [`ops`].

mod arena;
pub mod back;
mod build;
pub mod ops;
pub mod run;
mod tap;
pub mod vanishing;
mod weights;

use std::fmt::Debug;

use anyhow::Result;

pub use arena::Arena;
use back::Backward;
pub use build::Builder;
use run::{Forward, Keep};
pub use tap::{LinearInput, Matrix, NoTap, OneOf, Tap};
pub use weights::{Expected, LayerWeights, Part, Stack, WeightUse};

/// A value `[tokens, width]` of a layer. The first one is the residual stream as it enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(usize);

impl Value {
    /// The residual stream before the layer.
    pub const INPUT: Value = Value(0);
}

/// One step of a layer: reads some values, writes one.
pub trait Operation: Debug + Send + Sync {
    /// One of [`ops::NAMES`].
    fn name(&self) -> &'static str;

    fn reads(&self) -> Vec<Value>;

    fn writes(&self) -> Value;

    /// What of `reads` the way back needs as it was.
    fn keeps(&self) -> Vec<Value>;

    /// What of `reads` the output is made of in place: its room holds this when the operation begins.
    fn over(&self) -> Option<Value> {
        None
    }

    /// Tensors by their GGUF names.
    fn weights(&self) -> Vec<WeightUse<'_>>;

    /// Columns of all that an operation keeps inside while it runs.
    fn inside(&self) -> usize {
        0
    }

    /// The input of a product with a matrix, which taps see.
    fn product(&self) -> Option<Product<'_>> {
        None
    }

    fn forward(&self, pass: &mut Forward) -> Result<()>;

    /// Takes the gradient of what was written and gives what was read its share of it.
    fn backward(&self, pass: &mut Backward) -> Result<()>;
}

/// A product with a matrix, as taps see it.
pub struct Product<'a> {
    pub weight: &'a str,
    pub src: Value,
    /// What its output is added to.
    pub residual: Option<Value>,
}

/// The operations of a layer in order.
#[derive(Debug)]
pub struct Graph {
    ops: Vec<Box<dyn Operation>>,
    /// Of each value.
    widths: Vec<usize>,
    tensors: Vec<Expected>,
    output: Value,
}

impl Graph {
    /// The residual stream behind the layer.
    pub fn output(&self) -> Value {
        self.output
    }

    /// The names of all operations.
    pub fn operations(&self) -> impl Iterator<Item = &'static str> {
        self.ops.iter().map(|op| op.name())
    }

    /// Every tensor that is used, in the order of its first use.
    pub fn weights(&self) -> impl Iterator<Item = WeightUse<'_>> {
        self.ops.iter().flat_map(|op| op.weights())
    }

    /// The same with their shapes. Optional ones are among them if they were said to be there.
    pub fn tensors(&self) -> &[Expected] {
        &self.tensors
    }

    /// Width of all values that have room of their own where all are kept, and of what operations keep inside.
    pub fn width(&self) -> usize {
        let own = (0..self.ops.len()).filter(|&index| self.written_over(index, Keep::All).is_none());
        let values: usize = own.map(|index| self.widths[self.ops[index].writes().0]).sum();
        values + self.ops.iter().map(|op| op.inside()).sum::<usize>()
    }

    /// The value whose room operation `index` may write into, because no one wants it any more.
    fn written_over(&self, index: usize, keep: Keep) -> Option<Value> {
        let op = &self.ops[index];
        op.over().filter(|&value| {
            let reads_twice = op.reads().iter().filter(|read| **read == value).count() > 1;
            let is_kept = keep == Keep::All && self.is_kept(value);
            !reads_twice && !is_kept && !self.is_read_after(index, value)
        })
    }

    /// Whether an operation behind `index` reads the value, or the layer ends in it.
    fn is_read_after(&self, index: usize, value: Value) -> bool {
        value == self.output || self.ops[index + 1..].iter().any(|op| op.reads().contains(&value))
    }

    /// Whether the way back or a tap wants the value as it was.
    fn is_kept(&self, value: Value) -> bool {
        let is_seen = |product: Product| product.src == value || product.residual == Some(value);
        self.ops.iter().any(|op| op.keeps().contains(&value) || op.product().is_some_and(is_seen))
    }

    /// The matrices of all products that read the same value as operation `index`, if it is the first of them.
    fn sharing_input(&self, index: usize) -> Option<Vec<Matrix>> {
        let src = self.ops[index].product()?.src;
        let products = || self.ops.iter().enumerate().filter_map(|(at, op)| Some((at, op.product()?)));
        let readers: Vec<_> = products().filter(|(_, product)| product.src == src).collect();
        (readers[0].0 == index).then(|| readers.into_iter().map(|(_, product)| Matrix::whole(product.weight)).collect())
    }
}
