//! The second moments of a layer's inputs, with which errors are weighed.

pub mod hessian;
