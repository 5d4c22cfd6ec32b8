//! Choosing codes and scales with the second moments of a layer's inputs.

pub mod hessian;
