//! dst = a + b.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::sum::sum;

#[derive(Clone, Debug)]
pub struct Add {
    pub a: Value,
    pub b: Value,
    pub dst: Value,
}

impl Operation for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.a, self.b]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        Vec::new()
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        Vec::new()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let out = pass.output()?;
        sum(pass.batch.device, pass.get(self.a), pass.get(self.b), &out, pass.len(self.dst))
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        // each is added to by others, so each has its own
        let copy = pass.room(self.b)?;
        pass.batch.device.copy(&dy, 0, &copy, 0, pass.len(self.dst) * size_of::<f32>())?;
        pass.give(self.b, copy)?;
        pass.give(self.a, dy)
    }
}
