//! dst = SiLU of a sum over the last tokens of src, column by column.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::{Batch, Forward};
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::short_conv::{ConvShape, short_conv};
use crate::kernels::short_conv_backward::short_conv_backward;

#[derive(Clone, Debug)]
pub struct ShortConv {
    pub src: Value,
    pub dst: Value,
    /// `[channels, taps]`.
    pub weight: String,
    /// Tokens that each sees, itself included.
    pub taps: usize,
}

impl ShortConv {
    fn shape(&self, batch: &Batch, channels: usize) -> ConvShape {
        ConvShape { sequences: batch.sequences, seq_len: batch.seq_len, channels, taps: self.taps }
    }
}

impl Operation for ShortConv {
    fn name(&self) -> &'static str {
        "short_conv"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.src]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        self.reads()
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        vec![WeightUse::Vector(&self.weight)]
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let out = pass.output()?;
        let weight = pass.weights.vector(&self.weight);
        let shape = self.shape(&pass.batch, pass.width(self.src));
        short_conv(pass.batch.device, pass.get(self.src), weight, &out, shape)
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let dx = pass.room(self.src)?;
        let weight = pass.weights.vector(&self.weight);
        let shape = self.shape(&pass.batch, pass.width(self.src));
        short_conv_backward(pass.batch.device, pass.get(self.src), weight, &dy, &dx, shape)?;
        pass.give(self.src, dx)
    }
}
