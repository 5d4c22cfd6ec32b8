//! What may look into a pass.

use std::fmt;
use std::ops::Range;

use anyhow::Result;

use crate::device::Buffer;

/// A matrix that inputs are multiplied by: a tensor, or one of those that are stacked in it, such as that of an expert.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Matrix {
    /// GGUF name.
    pub tensor: String,
    /// Its place in the stack.
    pub index: usize,
}

impl Matrix {
    /// A tensor that is one matrix.
    pub fn whole(tensor: &str) -> Matrix {
        Matrix { tensor: tensor.to_owned(), index: 0 }
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.tensor)?;
        if self.index > 0 { write!(f, ", matrix {}", self.index) } else { Ok(()) }
    }
}

/// What some matrices are multiplied by (q, k and v share their input).
#[derive(Clone, Copy)]
pub struct LinearInput<'a> {
    pub matrices: &'a [Matrix],
    /// `[tokens, width]`, or longer.
    pub x: &'a Buffer,
    pub width: usize,
    /// Tokens of each text of the batch, in their order.
    pub texts: &'a [usize],
    /// Place of the first of these texts among all.
    pub first_text: usize,
    /// Of the input of an expert: it has those tokens that were sent there, perhaps none, and x stays what it is only while it is
    /// shown.
    pub experts: Option<OneOf>,
}

/// Of which experts an input is that of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneOf {
    pub count: usize,
    /// Whether each reads some rows of the same states, or states of its own.
    pub is_shared: bool,
}

impl LinearInput<'_> {
    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.texts.iter().sum()
    }

    /// The place of each text among all, and its tokens as rows of x. Texts without tokens are left out.
    pub fn text_rows(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let starts = self.texts.iter().scan(0, |next, count| {
            let first = *next;
            *next += count;
            Some(first..*next)
        });
        let first_text = self.first_text;
        starts.enumerate().map(move |(at, rows)| (first_text + at, rows)).filter(|(_, rows)| !rows.is_empty())
    }
}

/// Sees the inputs of linear layers on the way forward, and the gradients at their outputs on the way back.
pub trait Tap {
    fn linear_input(&mut self, _input: &LinearInput) -> Result<()> {
        Ok(())
    }

    /// `residual` is what the output of the matrix whose input comes next is added to: `[tokens, rows of the matrix]`.
    fn residual(&mut self, _residual: &Buffer) -> Result<()> {
        Ok(())
    }

    /// `dy` `[tokens, rows]` is dL/dz at the output rows of `matrix` that begin at `first_row`.
    fn linear_gradient(
        &mut self,
        _matrix: &Matrix,
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
