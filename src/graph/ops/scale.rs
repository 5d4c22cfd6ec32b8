//! dst = src * factor.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::scale::scale;

#[derive(Clone, Debug)]
pub struct Scale {
    pub src: Value,
    pub dst: Value,
    pub factor: f32,
}

impl Operation for Scale {
    fn name(&self) -> &'static str {
        "scale"
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
        let values = pass.output()?;
        scale(pass.batch.device, &values, self.factor, pass.len(self.dst))
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        scale(pass.batch.device, &dy, self.factor, pass.len(self.dst))?;
        pass.give(self.src, dy)
    }
}
