//! dst = some columns of each group of src: a part of what a matrix makes whose rows are those of several, or a part of each head.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::copy_columns::{Columns as Place, Onto, copy_columns};

#[derive(Clone, Debug)]
pub struct Columns {
    pub src: Value,
    pub dst: Value,
    /// Columns of a group.
    pub group: usize,
    /// The first one of those that are taken.
    pub first: usize,
    pub count: usize,
}

impl Operation for Columns {
    fn name(&self) -> &'static str {
        "columns"
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

    fn weights(&self) -> Vec<WeightUse<'_>> {
        Vec::new()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let out = pass.output()?;
        let from = Place { matrix: pass.get(self.src), width: self.group, first: self.first };
        let to = Place { matrix: &out, width: self.count, first: 0 };
        let groups = pass.len(self.src) / self.group;
        copy_columns(pass.batch.device, from, to, self.count, groups, Onto::Place)
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (dx, accumulate) = pass.target(self.src)?;
        let onto = if accumulate { Onto::Sum } else { Onto::Zeros };
        let from = Place { matrix: &dy, width: self.count, first: 0 };
        let to = Place { matrix: &dx, width: self.group, first: self.first };
        copy_columns(pass.batch.device, from, to, self.count, pass.len(self.src) / self.group, onto)
    }
}
