//! The way forward through one layer, for one batch.

use anyhow::Result;

use super::arena::Arena;
use super::tap::{LinearInput, Tap};
use super::weights::LayerWeights;
use super::{Graph, Value};
use crate::device::{Buffer, Device};

/// What every operation of a batch needs to know.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub device: &'a Device,
    pub arena: &'a Arena,
    /// cos and sin, `[seq_len, rotated elements / 2, 2]` each.
    pub rope_tables: &'a [Buffer],
    /// Each its own, from position 0.
    pub sequences: usize,
    /// Place of the first one among those of all batches.
    pub first_sequence: usize,
    pub seq_len: usize,
}

impl Batch<'_> {
    pub fn tokens(&self) -> usize {
        self.sequences * self.seq_len
    }
}

/// Which values stay as they were written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Those that are still to be read.
    Unread,
    /// Those too that the way back needs or a tap was shown.
    All,
}

/// The values of one layer of one batch.
pub struct Values(Vec<Option<Buffer>>);

impl Values {
    /// # Panics
    /// If it was not written: a graph writes every value before it reads it.
    pub fn get(&self, value: Value) -> &Buffer {
        self.0[value.0].as_ref().expect("a value is written before it is read")
    }
}

/// One operation on its way forward.
pub struct Forward<'a, 't> {
    pub batch: Batch<'a>,
    pub weights: &'a LayerWeights<'a>,
    pub tap: &'t mut dyn Tap,
    graph: &'a Graph,
    index: usize,
    keep: Keep,
    values: &'a mut Values,
}

impl Forward<'_, '_> {
    pub fn get(&self, value: Value) -> &Buffer {
        self.values.get(value)
    }

    /// Elements of a value.
    pub fn len(&self, value: Value) -> usize {
        self.batch.tokens() * self.width(value)
    }

    /// Columns of a value.
    pub fn width(&self, value: Value) -> usize {
        self.graph.widths[value.0]
    }

    /// Room for what the operation writes. It holds [`Operation::over`], if there is such a value; else its content is undefined.
    pub fn output(&mut self) -> Result<Buffer> {
        let op = &self.graph.ops[self.index];
        let room = match self.graph.written_over(self.index, self.keep) {
            Some(value) => self.get(value).clone(),
            None => self.batch.arena.take(self.batch.tokens(), self.graph.widths[op.writes().0])?,
        };
        if let Some(value) = op.over().filter(|value| !self.get(*value).is_same(&room)) {
            self.batch.device.copy(self.get(value), 0, &room, 0, self.len(value) * size_of::<f32>())?;
        }
        self.values.0[op.writes().0] = Some(room.clone());
        Ok(room)
    }
}

impl Graph {
    /// Runs all operations on `input`.
    pub fn run(
        &self,
        batch: Batch,
        weights: &LayerWeights,
        input: Buffer,
        keep: Keep,
        tap: &mut dyn Tap,
    ) -> Result<Values> {
        self.run_first(self.ops.len(), batch, weights, input, keep, tap)
    }

    /// Shows `tap` what it sees when the layer runs on `input`, and leaves out a product that ends it, which no one reads. Nothing
    /// that was shown is written to again.
    pub fn show(&self, batch: Batch, weights: &LayerWeights, input: Buffer, tap: &mut dyn Tap) -> Result<()> {
        let last = self.ops.len() - 1;
        let ends_in_product = self.ops[last].product().is_some();
        let count = if ends_in_product { last } else { self.ops.len() };
        let values = self.run_first(count, batch, weights, input, Keep::All, tap)?;
        if ends_in_product { self.show_product(last, batch, &values, tap) } else { Ok(()) }
    }

    fn run_first(
        &self,
        count: usize,
        batch: Batch,
        weights: &LayerWeights,
        input: Buffer,
        keep: Keep,
        tap: &mut dyn Tap,
    ) -> Result<Values> {
        let mut values = Values(vec![None; self.widths.len()]);
        values.0[Value::INPUT.0] = Some(input);
        for (index, op) in self.ops[..count].iter().enumerate() {
            self.show_product(index, batch, &values, tap)?;
            op.forward(&mut Forward { batch, weights, tap: &mut *tap, graph: self, index, keep, values: &mut values })?;
        }
        Ok(values)
    }

    /// Shows the input of a product, if it is the first that reads it, and what its output is added to.
    fn show_product(&self, index: usize, batch: Batch, values: &Values, tap: &mut dyn Tap) -> Result<()> {
        let Some(product) = self.ops[index].product() else { return Ok(()) };
        if let Some(residual) = product.residual {
            tap.residual(values.get(residual))?;
        }
        match self.sharing_input(index) {
            Some(matrices) => tap.linear_input(&LinearInput {
                matrices: &matrices,
                x: values.get(product.src),
                width: self.widths[product.src.0],
                texts: &vec![batch.seq_len; batch.sequences],
                first_text: batch.first_sequence,
                experts: None,
            }),
            None => Ok(()),
        }
    }
}
