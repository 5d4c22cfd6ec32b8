//! The way back through one layer, for one batch.

use anyhow::Result;

use super::run::{Batch, Values};
use super::tap::Tap;
use super::weights::LayerWeights;
use super::{Graph, Value};
use crate::device::Buffer;
use crate::kernels::sum::sum;

/// One operation on its way back.
pub struct Backward<'a, 't> {
    pub batch: Batch<'a>,
    pub weights: &'a LayerWeights<'a>,
    pub tap: &'t mut dyn Tap,
    /// Whether what is behind the layer is the embedding.
    pub is_first_layer: bool,
    graph: &'a Graph,
    values: &'a Values,
    gradients: Vec<Option<Buffer>>,
}

impl Backward<'_, '_> {
    /// A value as it was on the way forward.
    pub fn get(&self, value: Value) -> &Buffer {
        self.values.get(value)
    }

    /// The gradient of a value that is defined here; none if nothing has read it.
    pub fn take(&mut self, value: Value) -> Option<Buffer> {
        self.gradients[value.0].take()
    }

    /// Elements of a value.
    pub fn len(&self, value: Value) -> usize {
        self.batch.tokens() * self.width(value)
    }

    /// Columns of a value.
    pub fn width(&self, value: Value) -> usize {
        self.graph.widths[value.0]
    }

    /// Room of a value's width.
    pub fn room(&self, value: Value) -> Result<Buffer> {
        self.batch.arena.take(self.batch.tokens(), self.width(value))
    }

    /// Where to put a share of the gradient of `value`, and whether to add to what is there.
    pub fn target(&mut self, value: Value) -> Result<(Buffer, bool)> {
        if let Some(buffer) = &self.gradients[value.0] {
            return Ok((buffer.clone(), true));
        }
        let buffer = self.room(value)?;
        self.gradients[value.0] = Some(buffer.clone());
        Ok((buffer, false))
    }

    /// Gives `value` a share of its gradient, in room that no one else uses.
    pub fn give(&mut self, value: Value, share: Buffer) -> Result<()> {
        let whole = match self.gradients[value.0].take() {
            None => share,
            Some(others) => {
                let whole = self.room(value)?;
                sum(self.batch.device, &others, &share, &whole, self.len(value))?;
                whole
            }
        };
        self.gradients[value.0] = Some(whole);
        Ok(())
    }
}

impl Graph {
    /// Carries `gradient`, at the layer's output, back to its input. `values` are those of a run that kept all.
    pub fn back(
        &self,
        batch: Batch,
        weights: &LayerWeights,
        values: &Values,
        is_first_layer: bool,
        gradient: Buffer,
        tap: &mut dyn Tap,
    ) -> Result<Buffer> {
        let mut gradients = vec![None; self.widths.len()];
        gradients[self.output.0] = Some(gradient);
        let mut pass = Backward { batch, weights, tap, is_first_layer, graph: self, values, gradients };
        for op in self.ops.iter().rev() {
            op.backward(&mut pass)?;
        }
        Ok(pass.take(Value::INPUT).expect("a layer reads its input"))
    }
}
