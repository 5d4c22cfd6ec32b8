//! What an error costs, in nats.
//!
//! For small errors the KL divergence that tensor t costs in type q is
//! `D_t(q) = 1/2 sum_r g_r sum_j h_j dw_rj^2` nats per token, with `h_j = E[x_j^2]` the input side and
//! `g_r = E[(dL/dz_r)^2]` the output side, L = -log p(y) summed over a sequence, y drawn from the model itself.

mod gradient;

use std::collections::HashMap;

pub use gradient::{SweepOptions, reverse_sweep_factors};

/// Weights of a tensor's squared error on both sides: `1/2 sum_r rows[r] sum_j cols[j] dw_rj^2` is in nats per token.
#[derive(Clone, Debug)]
pub struct Factor {
    /// One per row: the output side (for an embedding: how often the row is used).
    pub rows: Vec<f32>,
    /// One per column: the input side (for an embedding: the gradient that reaches it).
    pub cols: Vec<f32>,
}

impl Factor {
    /// Nats per token from the column-weighted squared error of each row.
    pub fn nats(&self, row_errors: impl IntoIterator<Item = f32>) -> f64 {
        let sum: f64 = self.rows.iter().zip(row_errors).map(|(g, e)| f64::from(*g) * f64::from(e)).sum();
        0.5 * sum
    }
}

/// The factors of every tensor; a tied embedding has two, one for each of its roles.
#[derive(Clone, Debug, Default)]
pub struct Sensitivities {
    pub factors: HashMap<String, Vec<Factor>>,
}

impl Sensitivities {
    /// The column weights that an encoder of `tensor` should use: the factors' columns, each scaled by its mean row weight.
    pub fn importance(&self, tensor: &str) -> Option<Vec<f32>> {
        let factors = self.factors.get(tensor)?;
        let mut importance = vec![0f64; factors.first()?.cols.len()];
        for factor in factors {
            let mean = factor.rows.iter().map(|g| f64::from(*g)).sum::<f64>() / factor.rows.len() as f64;
            importance.iter_mut().zip(&factor.cols).for_each(|(sum, col)| *sum += mean * f64::from(*col));
        }
        // Only the proportions matter; a mean of one keeps them far from the ends of f32.
        let mean = importance.iter().sum::<f64>() / importance.len() as f64;
        let scale = if mean > 0.0 { 1.0 / mean } else { 0.0 };
        Some(importance.into_iter().map(|value| (value * scale) as f32).collect())
    }
}
