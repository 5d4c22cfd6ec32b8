//! dst = src W^T (+ bias), or the same added to another value.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Matrix, Operation, Product, Value, WeightUse};
use crate::kernels::matmul::matmul;
use crate::kernels::matmul_transposed::matmul_transposed;

#[derive(Clone, Debug)]
pub struct Linear {
    pub src: Value,
    pub dst: Value,
    pub weight: String,
    pub bias: Option<String>,
    /// What the product is added to.
    pub add: Option<Value>,
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn reads(&self) -> Vec<Value> {
        self.add.into_iter().chain([self.src]).collect()
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        Vec::new()
    }

    fn over(&self) -> Option<Value> {
        self.add
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        let bias = self.bias.as_deref().map(WeightUse::Vector);
        [WeightUse::Matrix(&self.weight)].into_iter().chain(bias).collect()
    }

    fn product(&self) -> Option<Product<'_>> {
        Some(Product { weight: &self.weight, src: self.src, residual: self.add })
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let y = pass.output()?;
        let bias = self.bias.as_ref().map(|name| pass.weights.vector(name));
        let matrix = pass.weights.matrix(&self.weight);
        matmul(pass.batch.device, pass.get(self.src), matrix, bias, &y, pass.batch.tokens(), self.add.is_some())
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (matrix, tokens) = (pass.weights.matrix(&self.weight), pass.batch.tokens());
        pass.tap.linear_gradient(&Matrix::whole(&self.weight), &dy, tokens, matrix.rows, 0)?;
        let (dx, accumulate) = pass.target(self.src)?;
        matmul_transposed(pass.batch.device, &dy, matrix, &dx, tokens, 0..matrix.rows, accumulate)?;
        self.add.map_or(Ok(()), |residual| pass.give(residual, dy))
    }
}
