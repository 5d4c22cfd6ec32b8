//! Rounding each row of a matrix from its first block to its last: the way of the CPU.

use std::collections::HashMap;

use super::Method;
use super::coupling::{BlockCoupling, Coupling, Factored};
use crate::quant::GgmlType;
use crate::quant::round_rows::{Panels, Pass, RoundRows};

/// Couplings for types whose units have the same length.
pub struct Rounder {
    width: usize,
    feedback: Option<Prepared>,
    descent: Option<Prepared>,
    descents: usize,
}

struct Prepared {
    coupling: Coupling,
    panels: Panels,
    /// `[width]`: the weights of the columns' own errors.
    diagonal: Vec<f32>,
    /// By the length of the blocks, made when a type needs them.
    by_block: HashMap<usize, Vec<BlockCoupling>>,
}

impl Prepared {
    fn new(coupling: Coupling) -> Self {
        let panels = Panels::new(&coupling.to_target, coupling.width);
        Prepared { panels, diagonal: coupling.diagonal(0..coupling.width), coupling, by_block: HashMap::new() }
    }

    fn pass(&mut self, block: usize, is_descent: bool) -> Pass<'_> {
        let coupling = &self.coupling;
        let blocks = self.by_block.entry(block).or_insert_with(|| coupling.by_block(block, is_descent));
        Pass { panels: &self.panels, within: blocks.iter().map(BlockCoupling::view).collect() }
    }
}

impl Rounder {
    /// For types of units of `unit` columns (see [`crate::quant::recode::unit`]).
    pub fn new(factored: &Factored, unit: usize, method: Method) -> Self {
        Rounder {
            width: factored.width,
            feedback: method.feedback.then(|| Prepared::new(factored.feedback(unit))),
            descent: (method.descents > 0).then(|| Prepared::new(factored.descent(unit))),
            descents: method.descents,
        }
    }

    /// See [`super::feedback::Rounders::round`].
    pub fn round(&mut self, ty: GgmlType, values: &[f32], importance: &[f32]) -> Vec<u8> {
        let block = ty.block_len();
        let diagonal = self.feedback.as_ref().map(|prepared| prepared.diagonal.clone());
        let rounding = RoundRows {
            ty,
            width: self.width,
            importance: diagonal.as_deref().unwrap_or(importance),
            feedback: self.feedback.as_mut().map(|prepared| prepared.pass(block, false)),
            descent: self.descent.as_mut().map(|prepared| (prepared.pass(block, true), self.descents)),
        };
        rounding.round(values)
    }
}
