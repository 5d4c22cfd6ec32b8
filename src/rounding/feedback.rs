//! Rounding a matrix with the errors of its columns making good each other: block after block of columns, first to targets that
//! contain the errors so far, then again in descents.

use std::collections::HashMap;

use anyhow::Result;

use super::coupling::Factored;
use super::{DAMPING, Method, by_blocks, by_rows};
use crate::device::Device;
use crate::kernels::encode::encode_values;
use crate::quant::GgmlType;
use crate::quant::recode::unit;

/// Rounders of one input, made when a type needs them.
pub struct Rounders<'a> {
    device: &'a Device,
    factored: Factored,
    method: Method,
    by_unit: HashMap<usize, Rounder<'a>>,
}

/// The same on both devices, up to the rounding of sums.
enum Rounder<'a> {
    /// CPU: each task takes rows of its own through all blocks.
    Rows(by_rows::Rounder),
    /// GPU: all rows go through each block together.
    Blocks(by_blocks::Rounder<'a>),
}

impl<'a> Rounders<'a> {
    /// `h` is E[x x^T] of the input, `[width, width]`.
    pub fn new(device: &'a Device, h: Vec<f32>, width: usize, method: Method) -> Result<Self> {
        Ok(Rounders { device, factored: Factored::new(h, width, DAMPING)?, method, by_unit: HashMap::new() })
    }

    /// The inverse of H, damped.
    pub fn inverse(&self) -> Vec<f32> {
        self.factored.inverse()
    }

    /// `values` `[rows, width]` in type `ty`, as the bytes of a GGUF tensor. Without feedback every block is first encoded by
    /// `importance` `[width]`. Types without blocks are converted.
    pub fn round(&mut self, ty: GgmlType, values: &[f32], importance: &[f32]) -> Result<Vec<u8>> {
        let (device, width) = (self.device, self.factored.width);
        let Some(unit) = unit(ty) else {
            return encode_values(device, ty, values, &device.upload("importance", importance)?, width);
        };
        if !self.by_unit.contains_key(&unit) {
            let rounder = match device {
                Device::Cpu(_) => Rounder::Rows(by_rows::Rounder::new(&self.factored, unit, self.method)),
                Device::Gpu(_) => Rounder::Blocks(by_blocks::Rounder::new(device, &self.factored, unit, self.method)?),
            };
            self.by_unit.insert(unit, rounder);
        }
        match self.by_unit.get_mut(&unit).expect("just made") {
            Rounder::Rows(rounder) => Ok(rounder.round(ty, values, importance)),
            Rounder::Blocks(rounder) => rounder.round(ty, values, importance),
        }
    }
}
