//! Rotary embedding: rotates each head.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::{Batch, Forward};
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::rope::{RopeParams, RopeStyle, rope};

/// What is rotated, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotate {
    pub heads: usize,
    pub head_dim: usize,
    /// Elements of a head that are rotated.
    pub rot: usize,
    pub style: RopeStyle,
    /// Which of the model's tables of angles.
    pub table: usize,
}

impl Rotate {
    fn params(&self, batch: &Batch, inverse: bool) -> RopeParams {
        let Rotate { heads, head_dim, rot, style, .. } = *self;
        RopeParams { tokens: batch.tokens(), seq_len: batch.seq_len, heads, head_dim, rot, style, inverse }
    }
}

#[derive(Clone, Debug)]
pub struct Rope {
    pub src: Value,
    pub dst: Value,
    pub rotate: Rotate,
}

impl Operation for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.src]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        Vec::new()
    }

    fn over(&self) -> Option<Value> {
        Some(self.src)
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        Vec::new()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let heads = pass.output()?;
        let table = &pass.batch.rope_tables[self.rotate.table];
        rope(pass.batch.device, &heads, table, self.rotate.params(&pass.batch, false))
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let table = &pass.batch.rope_tables[self.rotate.table];
        rope(pass.batch.device, &dy, table, self.rotate.params(&pass.batch, true))?;
        pass.give(self.src, dy)
    }
}
