//! Causal grouped-query attention.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::{Batch, Forward};
use crate::graph::{Operation, Value, WeightUse};
use crate::kernels::attention::{AttentionParams, attention};
use crate::kernels::attention_backward::attention_backward;

/// The shape of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    pub heads: usize,
    /// Divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head of queries and keys.
    pub head_dim: usize,
    /// Elements of a head of values and of the output.
    pub value_dim: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Tokens that each sees, itself included, where it does not see all before it.
    pub window: Option<usize>,
    /// A scaled score s becomes softcap tanh(s / softcap).
    pub softcap: Option<f32>,
}

impl Attend {
    fn params(&self, batch: &Batch) -> AttentionParams {
        let Attend { heads, kv_heads, head_dim, value_dim, scale, window, softcap } = *self;
        let (sequences, seq_len) = (batch.sequences, batch.seq_len);
        AttentionParams { sequences, seq_len, heads, kv_heads, head_dim, value_dim, scale, window, softcap }
    }
}

#[derive(Clone, Debug)]
pub struct Attention {
    pub q: Value,
    pub k: Value,
    pub v: Value,
    pub dst: Value,
    /// One more score for every query of a head.
    pub sinks: Option<String>,
    pub attend: Attend,
}

impl Operation for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.q, self.k, self.v]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        self.reads()
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        self.sinks.as_deref().map(WeightUse::Vector).into_iter().collect()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let out = pass.output()?;
        let (q, k, v) = (pass.get(self.q), pass.get(self.k), pass.get(self.v));
        let sinks = self.sinks.as_ref().map(|name| pass.weights.vector(name));
        attention(pass.batch.device, q, k, v, sinks, &out, self.attend.params(&pass.batch))
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (dq, dk, dv) = (pass.room(self.q)?, pass.room(self.k)?, pass.room(self.v)?);
        let (q, k, v) = (pass.get(self.q), pass.get(self.k), pass.get(self.v));
        let params = self.attend.params(&pass.batch);
        let sinks = self.sinks.as_ref().map(|name| pass.weights.vector(name));
        attention_backward(pass.batch.device, q, k, v, sinks, &dy, &dq, &dk, &dv, params)?;
        pass.give(self.q, dq)?;
        pass.give(self.k, dk)?;
        pass.give(self.v, dv)
    }
}
