//! Composing a layer.

use super::ops::{
    Add, Attend, Attention, Columns, Concat, DeltaGates, Experts, Gated, GatedDelta, HeadsLinear, Linear, Norm, Rope,
    Rotate, Router, Routing, Scale, ShortConv, SigmoidGate,
};
use super::{Expected, Graph, Operation, Value};
use crate::kernels::gated_delta::DeltaHeads;
use crate::kernels::glu::Activation;
use crate::kernels::norm::NormKind;

/// Adds operations one after the other. Every method returns the value that its operation writes.
pub struct Builder<'a> {
    ops: Vec<Box<dyn Operation>>,
    widths: Vec<usize>,
    tensors: Vec<Expected>,
    /// The residual stream: what came in, and every sum with it.
    stream: Vec<Value>,
    /// What the last norm of the residual stream has read.
    normed: Option<Value>,
    rms_eps: f32,
    norm_kind: NormKind,
    has_tensor: &'a dyn Fn(&str) -> bool,
    prefix: String,
}

impl<'a> Builder<'a> {
    /// Layer `il`, whose residual stream has `width` columns. Biases are used where `has_tensor` finds them.
    pub fn new(il: usize, width: usize, rms_eps: f32, has_tensor: &'a dyn Fn(&str) -> bool) -> Self {
        Builder {
            ops: Vec::new(),
            widths: vec![width],
            tensors: Vec::new(),
            stream: vec![Value::INPUT],
            normed: None,
            rms_eps,
            norm_kind: NormKind::Rms,
            has_tensor,
            prefix: format!("blk.{il}."),
        }
    }

    /// The kind of all norms from here on; before, it is [`NormKind::Rms`].
    pub fn set_norms(&mut self, kind: NormKind) {
        self.norm_kind = kind;
    }

    /// The layer, which ends in `output`.
    pub fn finish(self, output: Value) -> Graph {
        Graph { ops: self.ops, widths: self.widths, tensors: self.tensors, output }
    }

    /// Columns of a value.
    pub fn width(&self, value: Value) -> usize {
        self.widths[value.0]
    }

    /// The name of a tensor of this shape, columns first.
    fn weight(&mut self, stem: &str, dims: &[usize]) -> String {
        self.tensor(format!("{}{stem}.weight", self.prefix), dims, true)
    }

    /// The name of a tensor that not all models have; none for those without.
    fn optional(&mut self, name: &str, dims: &[usize]) -> Option<String> {
        let name = format!("{}{name}", self.prefix);
        (self.has_tensor)(&name).then(|| self.tensor(name, dims, false))
    }

    fn tensor(&mut self, name: String, dims: &[usize], required: bool) -> String {
        let dims = dims.iter().map(|&dim| dim as u64).collect();
        self.tensors.push(Expected { name: name.clone(), dims, required });
        name
    }

    fn value(&mut self, width: usize) -> Value {
        self.widths.push(width);
        Value(self.widths.len() - 1)
    }

    fn push(&mut self, op: impl Operation + 'static) -> Value {
        let dst = op.writes();
        self.ops.push(Box::new(op));
        dst
    }

    /// A norm over whole rows, without a bias.
    pub fn norm(&mut self, src: Value, stem: &str) -> Value {
        let width = self.width(src);
        self.norm_of_groups(src, stem, width)
    }

    /// A norm over each `width` columns, such as those of a head.
    pub fn norm_of_groups(&mut self, src: Value, stem: &str, width: usize) -> Value {
        let weight = self.weight(stem, &[width]);
        self.norm_with(src, Some(weight), width)
    }

    /// The same where the model has the tensor; the value itself where it does not.
    pub fn norm_of_groups_if_there(&mut self, src: Value, stem: &str, width: usize) -> Value {
        match self.optional(&format!("{stem}.weight"), &[width]) {
            Some(weight) => self.norm_with(src, Some(weight), width),
            None => src,
        }
    }

    /// Each `width` columns as a vector of length 1.
    pub fn unit_groups(&mut self, src: Value, width: usize) -> Value {
        self.norm_with(src, None, width)
    }

    fn norm_with(&mut self, src: Value, weight: Option<String>, width: usize) -> Value {
        let is_stream = self.stream.contains(&src);
        if is_stream {
            self.normed = Some(src);
        }
        let behind = self.normed.filter(|_| !is_stream);
        let dst = self.value(self.width(src));
        self.push(Norm { src, dst, weight, kind: self.norm_kind, width, eps: self.rms_eps, is_stream, behind })
    }

    fn product(&mut self, src: Value, stem: &str, rows: usize, add: Option<Value>) -> Value {
        let weight = self.weight(stem, &[self.width(src), rows]);
        let bias = self.optional(&format!("{stem}.bias"), &[rows]);
        let dst = self.value(rows);
        self.push(Linear { src, dst, weight, bias, add })
    }

    /// src W^T, and the bias if there is one: `rows` columns.
    pub fn linear(&mut self, src: Value, stem: &str, rows: usize) -> Value {
        self.product(src, stem, rows, None)
    }

    /// The same added to `residual`.
    pub fn linear_onto(&mut self, residual: Value, src: Value, stem: &str) -> Value {
        let sum = self.product(src, stem, self.width(residual), Some(residual));
        self.stream.extend(self.stream.contains(&residual).then_some(sum));
        sum
    }

    /// `count` columns of a value, from `first` on.
    pub fn columns(&mut self, src: Value, first: usize, count: usize) -> Value {
        self.columns_of_groups(src, self.width(src), first, count)
    }

    /// `count` columns of each `group` of them, such as those of a head, from `first` on.
    pub fn columns_of_groups(&mut self, src: Value, group: usize, first: usize, count: usize) -> Value {
        let dst = self.value(self.width(src) / group * count);
        self.push(Columns { src, dst, group, first, count })
    }

    /// `groups` groups of columns, each of some of `a` and some of `b`.
    pub fn concat(&mut self, a: Value, b: Value, groups: usize) -> Value {
        let dst = self.value(self.width(a) + self.width(b));
        self.push(Concat { a, b, dst, groups })
    }

    /// The columns of each head times its own matrix, which has `rows`.
    pub fn linear_of_heads(&mut self, src: Value, stem: &str, heads: usize, rows: usize) -> Value {
        let cols = self.width(src) / heads;
        let weight = self.weight(stem, &[cols, rows, heads]);
        let dst = self.value(heads * rows);
        self.push(HeadsLinear { src, dst, weight, heads, cols, rows })
    }

    /// A value times a number.
    pub fn scale(&mut self, src: Value, factor: f32) -> Value {
        let dst = self.value(self.width(src));
        self.push(Scale { src, dst, factor })
    }

    /// residual + value.
    pub fn add(&mut self, residual: Value, value: Value) -> Value {
        let dst = self.value(self.width(residual));
        self.stream.extend(self.stream.contains(&residual).then_some(dst));
        self.push(Add { a: residual, b: value, dst })
    }

    /// Rotates every head.
    pub fn rope(&mut self, src: Value, rotate: Rotate) -> Value {
        let dst = self.value(self.width(src));
        self.push(Rope { src, dst, rotate })
    }

    /// Causal grouped-query attention, with sinks if they have a stem.
    pub fn attention(&mut self, [q, k, v]: [Value; 3], attend: Attend, sinks: Option<&str>) -> Value {
        let sinks = sinks.map(|stem| self.weight(stem, &[attend.heads]));
        let dst = self.value(attend.heads * attend.value_dim);
        self.push(Attention { q, k, v, dst, sinks, attend })
    }

    /// SiLU of a sum over each token and those before it, `taps` in all, column by column.
    pub fn short_conv(&mut self, src: Value, stem: &str, taps: usize) -> Value {
        let width = self.width(src);
        let weight = self.weight(stem, &[taps, width]);
        let dst = self.value(width);
        self.push(ShortConv { src, dst, weight, taps })
    }

    /// What each head of a linear attention keeps of its state, and how far it steps: `[tokens, 2, heads]`, from a column of alpha
    /// and of beta for each. Whole names of the rates of decay and of what is added to alpha.
    pub fn delta_gates(&mut self, [alpha, beta]: [Value; 2], [rate, shift]: [&str; 2]) -> Value {
        let heads = self.width(alpha);
        let mut vector = |name: &str| self.tensor(format!("{}{name}", self.prefix), &[heads], true);
        let (rate, shift) = (vector(rate), vector(shift));
        let dst = self.value(2 * heads);
        self.push(DeltaGates { alpha, beta, dst, rate, shift })
    }

    /// Linear attention by the gated delta rule, of queries and keys `[tokens, 2, key_heads, key_dim]`, values
    /// `[tokens, value_heads, value_dim]` and what [`Builder::delta_gates`] makes.
    pub fn gated_delta(&mut self, [qk, v, gates]: [Value; 3], heads: DeltaHeads) -> Value {
        let dst = self.value(self.width(v));
        self.push(GatedDelta { qk, v, gates, dst, heads })
    }

    /// What each expert counts for each token, from scores `[tokens, experts]`.
    /// A bias of their choice is used where there is one.
    pub fn router(&mut self, src: Value, routing: Routing) -> Value {
        let bias = self.optional("exp_probs_b.bias", &[routing.experts]);
        let dst = self.value(routing.experts);
        self.push(Router { src, dst, bias, routing })
    }

    /// The sum of what experts make of `src`, as much of each as `shares` say. Stems of the stacks of gate, up and down matrices, with
    /// `hidden` columns between them, each with a bias where there is one.
    pub fn experts(
        &mut self,
        src: Value,
        shares: Value,
        stems: [&str; 3],
        hidden: usize,
        activation: Activation,
    ) -> Value {
        let (width, count) = (self.width(src), self.width(shares));
        let [gate, up] = [stems[0], stems[1]].map(|stem| self.weight(stem, &[width, hidden, count]));
        let down = self.weight(stems[2], &[hidden, width, count]);
        let mut bias = |stem: &str, rows| self.optional(&format!("{stem}.bias"), &[rows, count]);
        let biases = [bias(stems[0], hidden), bias(stems[1], hidden), bias(stems[2], width)];
        let dst = self.value(width);
        self.push(Experts { src, shares, dst, gate, up, down, biases, width, hidden, count, activation })
    }

    /// src * sigmoid(gate), with a gate for each column or one for all.
    pub fn sigmoid_gate(&mut self, src: Value, gate: Value) -> Value {
        let dst = self.value(self.width(src));
        self.push(SigmoidGate { src, gate, dst })
    }

    /// activation(gate) * up.
    pub fn gated(&mut self, gate: Value, up: Value, activation: Activation) -> Value {
        let dst = self.value(self.width(gate));
        self.push(Gated { gate, up, dst, activation })
    }
}
