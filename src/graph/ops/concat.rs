//! dst = groups of columns of a and of b, in turns: such as the two parts of each head.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::copy_columns::{Columns, Onto, copy_columns};

#[derive(Clone, Debug)]
pub struct Concat {
    pub a: Value,
    pub b: Value,
    pub dst: Value,
    /// Of a and of b each.
    pub groups: usize,
}

impl Operation for Concat {
    fn name(&self) -> &'static str {
        "concat"
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
        let [first, second, width] = [self.a, self.b, self.dst].map(|value| pass.width(value) / self.groups);
        for (src, count, at) in [(self.a, first, 0), (self.b, second, first)] {
            let from = Columns { matrix: pass.get(src), width: count, first: 0 };
            let to = Columns { matrix: &out, width, first: at };
            copy_columns(pass.batch.device, from, to, count, pass.batch.tokens() * self.groups, Onto::Place)?;
        }
        Ok(())
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let [first, second, width] = [self.a, self.b, self.dst].map(|value| pass.width(value) / self.groups);
        for (src, count, at) in [(self.a, first, 0), (self.b, second, first)] {
            let (dx, accumulate) = pass.target(src)?;
            let from = Columns { matrix: &dy, width, first: at };
            let to = Columns { matrix: &dx, width: count, first: 0 };
            let onto = if accumulate { Onto::Sum } else { Onto::Place };
            copy_columns(pass.batch.device, from, to, count, pass.batch.tokens() * self.groups, onto)?;
        }
        Ok(())
    }
}
