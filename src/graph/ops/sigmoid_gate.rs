//! dst = src * sigmoid(gate), with a gate for each column or one for all.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::sigmoid_gate::{GateShape, sigmoid_gate};
use crate::kernels::sigmoid_gate_backward::sigmoid_gate_backward;

#[derive(Clone, Debug)]
pub struct SigmoidGate {
    pub src: Value,
    /// As many columns as src, or one.
    pub gate: Value,
    pub dst: Value,
}

impl Operation for SigmoidGate {
    fn name(&self) -> &'static str {
        "sigmoid_gate"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.src, self.gate]
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
        let (width, gate_width) = (pass.width(self.src), pass.width(self.gate));
        let shape = GateShape { rows: pass.batch.tokens(), width, gate_width };
        sigmoid_gate(pass.batch.device, pass.get(self.src), pass.get(self.gate), &out, shape)
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (dx, dgate) = (pass.room(self.src)?, pass.room(self.gate)?);
        let (width, gate_width) = (pass.width(self.src), pass.width(self.gate));
        let shape = GateShape { rows: pass.batch.tokens(), width, gate_width };
        let values = [pass.get(self.src), pass.get(self.gate), &dy];
        sigmoid_gate_backward(pass.batch.device, values, [&dx, &dgate], shape)?;
        pass.give(self.src, dx)?;
        pass.give(self.gate, dgate)
    }
}
