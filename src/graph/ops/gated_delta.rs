//! Linear attention by the gated delta rule.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::{Batch, Forward};
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::gated_delta::{DeltaHeads, DeltaShape, gated_delta};
use crate::kernels::gated_delta_backward::gated_delta_backward;

#[derive(Clone, Debug)]
pub struct GatedDelta {
    /// Queries of all heads, then keys.
    pub qk: Value,
    pub v: Value,
    /// What [`super::DeltaGates`] makes.
    pub gates: Value,
    pub dst: Value,
    pub heads: DeltaHeads,
}

impl GatedDelta {
    fn shape(&self, batch: &Batch) -> DeltaShape {
        DeltaShape { sequences: batch.sequences, seq_len: batch.seq_len, heads: self.heads }
    }
}

impl Operation for GatedDelta {
    fn name(&self) -> &'static str {
        "gated_delta"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.qk, self.v, self.gates]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        self.reads()
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        Vec::new()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let out = pass.output()?;
        let inputs = [self.qk, self.v, self.gates].map(|value| pass.get(value));
        gated_delta(pass.batch.device, inputs, &out, self.shape(&pass.batch))
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (dqk, dv, dgates) = (pass.room(self.qk)?, pass.room(self.v)?, pass.room(self.gates)?);
        let inputs = [pass.get(self.qk), pass.get(self.v), pass.get(self.gates), &dy];
        gated_delta_backward(pass.batch.device, inputs, [&dqk, &dv, &dgates], self.shape(&pass.batch))?;
        pass.give(self.qk, dqk)?;
        pass.give(self.v, dv)?;
        pass.give(self.gates, dgates)
    }
}
