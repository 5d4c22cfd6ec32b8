//! What an error costs, in nats.
//!
//! For small errors the KL divergence that tensor t costs in type q is
//! `D_t(q) = 1/2 sum_r g_r sum_j h_j dw_rj^2` nats per token, with `h_j = E[x_j^2]` the input side and
//! `g_r = E[(dL/dz_r)^2]` the output side, L = -log p(y) summed over a sequence, y drawn from the model itself.
//! `pipeline::analyze` corrects this for inputs that are correlated. Without a backward pass, [`probe`] gives the same units.

mod embedding;
mod gradient;
pub mod probe;

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use gradient::{SweepOptions, reverse_sweep_factors};

/// How it is found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// One backward pass.
    #[default]
    Sweep,
    /// Group after group in a coarse type: for families without a backward pass.
    Probes,
}

impl Way {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Way::Sweep => "reverse sweep",
            Way::Probes => "group probes",
        }
    }
}

/// Weights of a tensor's squared error on both sides: `1/2 sum_r rows[r] sum_j cols[j] dw_rj^2` is in nats per token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Factor {
    /// One per row: the output side (for an embedding: how often the row is used, times the mean square of its gradients).
    pub rows: Vec<f32>,
    /// One per column of each matrix, `[matrices, cols]`: the input side (for an embedding: the mean square of its gradients scaled to length 1).
    pub cols: Vec<f32>,
}

impl Factor {
    /// Nats per token from the column-weighted squared errors of some of the rows.
    pub fn nats(&self, rows: Range<usize>, errors: impl IntoIterator<Item = f32>) -> f64 {
        let sum: f64 = self.rows[rows].iter().zip(errors).map(|(g, e)| f64::from(*g) * f64::from(e)).sum();
        0.5 * sum
    }
}

/// The factors of every tensor; a tied embedding has two, one for each of its roles.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sensitivities {
    pub factors: HashMap<String, Vec<Factor>>,
    /// Second moments of the gradients at the token embedding, each scaled to length 1, `[n_embd, n_embd]`: what its errors are worth together.
    /// None where they do not fit the device.
    pub embedding_moments: Option<Vec<f32>>,
}
