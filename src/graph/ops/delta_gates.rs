//! What each head of a linear attention keeps of its state, and how far it steps.

use anyhow::Result;

use crate::device::Buffer;
use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{LayerWeights, Operation, Value, WeightUse};
use crate::kernels::delta_gates::{GateInputs, delta_gates};
use crate::kernels::delta_gates_backward::delta_gates_backward;

#[derive(Clone, Debug)]
pub struct DeltaGates {
    /// A column for each head.
    pub alpha: Value,
    pub beta: Value,
    /// Twice as many: logarithms of what is kept, then steps.
    pub dst: Value,
    /// What decays are multiplied by, below 0, and what is added to alpha.
    pub rate: String,
    pub shift: String,
}

impl DeltaGates {
    fn inputs<'a>(
        &self,
        weights: &'a LayerWeights,
        [alpha, beta]: [&'a Buffer; 2],
        tokens: usize,
        heads: usize,
    ) -> GateInputs<'a> {
        GateInputs { alpha, beta, rate: weights.vector(&self.rate), shift: weights.vector(&self.shift), tokens, heads }
    }
}

impl Operation for DeltaGates {
    fn name(&self) -> &'static str {
        "delta_gates"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.alpha, self.beta]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        self.reads()
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        vec![WeightUse::Vector(&self.rate), WeightUse::Vector(&self.shift)]
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let gates = pass.output()?;
        let values = [pass.get(self.alpha), pass.get(self.beta)];
        let inputs = self.inputs(pass.weights, values, pass.batch.tokens(), pass.width(self.alpha));
        delta_gates(pass.batch.device, inputs, &gates)
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dgates) = pass.take(self.dst) else { return Ok(()) };
        let (dalpha, dbeta) = (pass.room(self.alpha)?, pass.room(self.beta)?);
        let values = [pass.get(self.alpha), pass.get(self.beta)];
        let inputs = self.inputs(pass.weights, values, pass.batch.tokens(), pass.width(self.alpha));
        delta_gates_backward(pass.batch.device, inputs, &dgates, [&dalpha, &dbeta])?;
        pass.give(self.alpha, dalpha)?;
        pass.give(self.beta, dbeta)
    }
}
