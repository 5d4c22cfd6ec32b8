//! dst = activation(gate) * up.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::glu::{Activation, glu};
use crate::kernels::glu_backward::glu_backward;

#[derive(Clone, Debug)]
pub struct Gated {
    pub gate: Value,
    pub up: Value,
    pub dst: Value,
    pub activation: Activation,
}

impl Operation for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.gate, self.up]
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
        let len = pass.len(self.dst);
        glu(pass.batch.device, self.activation, pass.get(self.gate), pass.get(self.up), &out, len)
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (dgate, dup) = (pass.room(self.gate)?, pass.room(self.up)?);
        let len = pass.len(self.dst);
        let (gate, up) = (pass.get(self.gate), pass.get(self.up));
        glu_backward(pass.batch.device, self.activation, [gate, up, &dy], [&dgate, &dup], len)?;
        pass.give(self.gate, dgate)?;
        pass.give(self.up, dup)
    }
}
