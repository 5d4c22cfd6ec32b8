//! What may look into a pass.

use anyhow::Result;

use crate::device::Buffer;

/// Sees the inputs of linear layers on the way forward, and the gradients at their outputs on the way back.
pub trait Tap {
    /// `x` `[tokens, width]` is the input of all of `weights` (q, k and v share theirs).
    fn linear_input(&mut self, _weights: &[&str], _x: &Buffer, _tokens: usize, _width: usize) -> Result<()> {
        Ok(())
    }

    /// `residual` is what the output of the weight whose input comes next is added to: `[tokens, rows of the weight]`.
    fn residual(&mut self, _residual: &Buffer) -> Result<()> {
        Ok(())
    }

    /// `dy` `[tokens, rows]` is dL/dz at the output rows of `weight` that begin at `first_row`.
    fn linear_gradient(
        &mut self,
        _weight: &str,
        _dy: &Buffer,
        _tokens: usize,
        _rows: usize,
        _first_row: usize,
    ) -> Result<()> {
        Ok(())
    }

    /// `dx` `[tokens, width]` is the gradient at the embedding rows of `ids`.
    fn embedding_gradient(&mut self, _ids: &[u32], _dx: &Buffer, _width: usize) -> Result<()> {
        Ok(())
    }

    /// All batches have passed this layer, the head or the embedding: read what was gathered.
    fn layer_done(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Looks at nothing.
pub struct NoTap;

impl Tap for NoTap {}
