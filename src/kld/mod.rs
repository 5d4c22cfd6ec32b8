//! Divergence between two models.
