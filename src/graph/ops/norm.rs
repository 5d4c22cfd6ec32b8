//! dst = src / rms(src) * weight, or the same of src - mean(src), over groups of columns: all of a row, or those of a head. Without a
//! weight, dst = src / |src|.

use std::borrow::Cow;

use anyhow::Result;

use crate::device::{Buffer, Device};
use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::vanishing::{Rows, faint_tokens, lifted};
use crate::graph::{LayerWeights, Operation, Value, WeightUse};
use crate::kernels::norm::{NormKind, NormParams, norm};
use crate::kernels::norm_backward::norm_backward;

#[derive(Clone, Debug)]
pub struct Norm {
    pub src: Value,
    pub dst: Value,
    pub weight: Option<String>,
    pub kind: NormKind,
    /// Columns of a group.
    pub width: usize,
    pub eps: f32,
    /// Whether it reads the residual stream itself.
    pub is_stream: bool,
    /// Otherwise, what the norm of the residual stream before it has read.
    pub behind: Option<Value>,
}

impl Norm {
    fn params(&self, len: usize) -> NormParams {
        // beside the sum of squares, not beside their mean
        let eps = if self.weight.is_some() { self.eps } else { self.eps / self.width as f32 };
        NormParams { kind: self.kind, rows: len / self.width, width: self.width, eps }
    }

    fn weight<'a>(&self, device: &Device, weights: &'a LayerWeights) -> Result<Cow<'a, Buffer>> {
        match &self.weight {
            Some(name) => Ok(Cow::Borrowed(weights.vector(name))),
            None => {
                let unit = 1.0 / (self.width as f32).sqrt();
                device.upload("weight of a norm without one", &vec![unit; self.width]).map(Cow::Owned)
            }
        }
    }

    /// What to take in place of the input, where that vanishes.
    fn lifted_input(&self, pass: &Backward) -> Result<Option<Buffer>> {
        let (device, x) = (pass.batch.device, pass.get(self.src));
        let (tokens, seq_len) = (pass.batch.tokens(), pass.batch.seq_len);
        let rows = |value: Value, width: usize| Rows { tokens, seq_len, groups: pass.width(value) / width, width };
        let own = rows(self.src, self.width);
        match self.behind {
            // behind it is the embedding, of which every row is judged by its own gradient and size
            _ if self.is_stream && self.src == Value::INPUT && pass.is_first_layer => Ok(None),
            _ if self.is_stream => lifted(device, x, own, None),
            // heads differ in size, so that a small one need not vanish
            Some(stream) => {
                let read = pass.get(stream);
                let faint = faint_tokens(device, read, rows(stream, pass.width(stream)), self.eps)?;
                lifted(device, x, own, Some(&faint))
            }
            None => Ok(None),
        }
    }
}

impl Operation for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.src]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        [self.src].into_iter().chain(self.behind).collect()
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        self.weight.as_deref().map(WeightUse::Vector).into_iter().collect()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let out = pass.output()?;
        let weight = self.weight(pass.batch.device, pass.weights)?;
        norm(pass.batch.device, pass.get(self.src), &weight, &out, self.params(pass.len(self.src)))
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (dx, accumulate) = pass.target(self.src)?;
        let lifted = self.lifted_input(pass)?;
        let input = lifted.as_ref().unwrap_or(pass.get(self.src));
        let weight = self.weight(pass.batch.device, pass.weights)?;
        let params = self.params(pass.len(self.src));
        norm_backward(pass.batch.device, input, &weight, &dy, &dx, params, accumulate)
    }
}
