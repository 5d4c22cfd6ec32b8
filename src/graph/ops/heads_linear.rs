//! dst = src W_h^T for the columns of each head h, with a matrix of its own out of a stack.

use anyhow::Result;

use crate::device::Buffer;
use crate::graph::back::Backward;
use crate::graph::run::{Batch, Forward};
use crate::graph::{LinearInput, Matrix, OneOf, Operation, Value, WeightUse};
use crate::kernels::copy_columns::{Columns, Onto, copy_columns};
use crate::kernels::matmul::matmul_rows;
use crate::kernels::matmul_transposed::matmul_transposed;

#[derive(Clone, Debug)]
pub struct HeadsLinear {
    pub src: Value,
    pub dst: Value,
    /// A stack of matrices `[rows, cols]`, one for each head.
    pub weight: String,
    pub heads: usize,
    pub cols: usize,
    pub rows: usize,
}

impl HeadsLinear {
    fn matrix(&self, head: usize) -> Matrix {
        Matrix { tensor: self.weight.clone(), index: head }
    }

    /// The columns of one head, in `room`.
    fn take(&self, batch: &Batch, all: &Buffer, head: usize, count: usize, room: &Buffer) -> Result<()> {
        let from = Columns { matrix: all, width: self.heads * count, first: head * count };
        let to = Columns { matrix: room, width: count, first: 0 };
        copy_columns(batch.device, from, to, count, batch.tokens(), Onto::Place)
    }

    /// The other way.
    fn put(&self, batch: &Batch, room: &Buffer, head: usize, count: usize, all: &Buffer, onto: Onto) -> Result<()> {
        let from = Columns { matrix: room, width: count, first: 0 };
        let to = Columns { matrix: all, width: self.heads * count, first: head * count };
        copy_columns(batch.device, from, to, count, batch.tokens(), onto)
    }
}

impl Operation for HeadsLinear {
    fn name(&self) -> &'static str {
        "heads_linear"
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

    fn inside(&self) -> usize {
        self.cols + self.rows
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        vec![WeightUse::Stack(&self.weight)]
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let (batch, out) = (pass.batch, pass.output()?);
        let (x, y) = (batch.arena.take(batch.tokens(), self.cols)?, batch.arena.take(batch.tokens(), self.rows)?);
        for head in 0..self.heads {
            self.take(&batch, pass.get(self.src), head, self.cols, &x)?;
            pass.tap.linear_input(&LinearInput {
                matrices: &[self.matrix(head)],
                x: &x,
                width: self.cols,
                texts: &vec![batch.seq_len; batch.sequences],
                first_text: batch.first_sequence,
                experts: Some(OneOf { count: self.heads, is_shared: false }),
            })?;
            let part = pass.weights.part(&self.weight, head, self.rows)?;
            matmul_rows(batch.device, &x, &part, &y, batch.tokens(), part.rows.clone())?;
            self.put(&batch, &y, head, self.rows, &out, Onto::Place)?;
        }
        Ok(())
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (batch, tokens) = (pass.batch, pass.batch.tokens());
        let (dx, accumulate) = pass.target(self.src)?;
        let onto = if accumulate { Onto::Sum } else { Onto::Place };
        let (of_x, of_y) = (batch.arena.take(tokens, self.cols)?, batch.arena.take(tokens, self.rows)?);
        for head in 0..self.heads {
            self.take(&batch, &dy, head, self.rows, &of_y)?;
            pass.tap.linear_gradient(&self.matrix(head), &of_y, tokens, self.rows, 0)?;
            let part = pass.weights.part(&self.weight, head, self.rows)?;
            matmul_transposed(batch.device, &of_y, &part, &of_x, tokens, part.rows.clone(), false)?;
            self.put(&batch, &of_x, head, self.cols, &dx, onto)?;
        }
        Ok(())
    }
}
