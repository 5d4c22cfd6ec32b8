//! Rounding all rows of a matrix together, block after block of columns, by kernels: the way of a GPU.

use std::collections::HashMap;

use anyhow::Result;

use super::Method;
use super::coupling::{BlockCoupling, Coupling, Factored};
use crate::device::{Buffer, Device};
use crate::kernels::encode::encode;
use crate::kernels::matmul::matmul_rows_add;
use crate::kernels::recode::{RecodeInputs, recode};
use crate::kernels::weight::Weight;
use crate::kernels::weight_difference::weight_difference;
use crate::quant::GgmlType;

/// Couplings on the device, for types whose units have the same length.
pub struct Rounder<'a> {
    device: &'a Device,
    method: Method,
    width: usize,
    feedback: Option<Uploaded>,
    descent: Option<Uploaded>,
}

struct Uploaded {
    coupling: Coupling,
    to_target: Weight,
    /// By the length of the blocks, made when a type needs them.
    within: HashMap<usize, Vec<Within>>,
}

/// What [`recode`] needs to know of the columns of a block.
struct Within {
    coupling: Buffer,
    metric: Buffer,
    /// For descents.
    moments: Option<Buffer>,
}

impl Uploaded {
    fn new(device: &Device, coupling: Coupling) -> Result<Self> {
        let (width, bytes) = (coupling.width, bytemuck::cast_slice(&coupling.to_target));
        let to_target = Weight::upload(device, "coupling", GgmlType::F32, width, width, bytes)?;
        Ok(Uploaded { coupling, to_target, within: HashMap::new() })
    }

    /// Makes what blocks of `block` columns need.
    fn prepare(&mut self, device: &Device, block: usize, is_descent: bool) -> Result<()> {
        if self.within.contains_key(&block) {
            return Ok(());
        }
        let upload = |within: BlockCoupling| {
            Ok(Within {
                coupling: device.upload("coupling", &within.coupling)?,
                metric: device.upload("metric", &within.metric)?,
                moments: within.moments.map(|moments| device.upload("moments", &moments)).transpose()?,
            })
        };
        let blocks = self.coupling.by_block(block, is_descent).into_iter().map(upload).collect::<Result<_>>()?;
        self.within.insert(block, blocks);
        Ok(())
    }
}

/// The blocks of some columns of all rows.
struct Panel {
    first: usize,
    weights: Buffer,
    blocks: Weight,
}

impl<'a> Rounder<'a> {
    /// For types of units of `unit` columns (see [`crate::quant::recode::unit`]).
    pub fn new(device: &'a Device, factored: &Factored, unit: usize, method: Method) -> Result<Self> {
        let feedback = method.feedback.then(|| Uploaded::new(device, factored.feedback(unit))).transpose()?;
        let descent = (method.descents > 0).then(|| Uploaded::new(device, factored.descent(unit))).transpose()?;
        Ok(Rounder { device, method, width: factored.width, feedback, descent })
    }

    /// See [`super::feedback::Rounders::round`].
    pub fn round(&mut self, ty: GgmlType, values: &[f32], importance: &[f32]) -> Result<Vec<u8>> {
        let (device, width, block) = (self.device, self.width, ty.block_len());
        self.feedback.as_mut().map(|uploaded| uploaded.prepare(device, block, false)).transpose()?;
        self.descent.as_mut().map(|uploaded| uploaded.prepare(device, block, true)).transpose()?;
        let rows = values.len() / width;
        let errors = device.alloc("errors", rows * width * size_of::<f32>())?;
        let mut panels = Vec::with_capacity(width / block);
        let searched = match self.feedback {
            Some(_) => None,
            None => Some(self.search(ty, values, importance, &errors)?),
        };
        for first in (0..width).step_by(block) {
            let weights = device.upload("weights", &columns(values, width, first, block))?;
            let blocks = match (&self.feedback, &searched) {
                (Some(feedback), _) => {
                    let targets = self.targets(feedback, &weights, &errors, first, (rows, block))?;
                    let importance = device.upload("importance", &feedback.coupling.diagonal(first..first + block))?;
                    let blocks = encode(device, ty, &targets, &importance, rows, block)?;
                    self.settle(feedback, &blocks, (&targets, &weights), &errors, first)?;
                    blocks
                }
                (None, Some(bytes)) => {
                    let stride = ty.bytes_for(width as u64) as usize;
                    let at = first / block * ty.block_bytes();
                    let bytes: Vec<u8> =
                        bytes.chunks_exact(stride).flat_map(|row| &row[at..at + ty.block_bytes()]).copied().collect();
                    Weight::upload(device, "blocks", ty, rows, block, &bytes)?
                }
                (None, None) => unreachable!("without feedback all blocks were searched"),
            };
            panels.push(Panel { first, weights, blocks });
        }
        for _ in 0..self.method.descents {
            let descent = self.descent.as_ref().expect("made for a method with descents");
            for Panel { first, weights, blocks } in &panels {
                let targets = self.targets(descent, weights, &errors, *first, (rows, block))?;
                self.settle(descent, blocks, (&targets, weights), &errors, *first)?;
            }
        }
        let blocks = panels.iter().map(|panel| panel.blocks.download(device)).collect::<Result<Vec<_>>>()?;
        let mut bytes = Vec::with_capacity(ty.bytes_for(values.len() as u64) as usize);
        for row in 0..rows {
            for blocks in &blocks {
                bytes.extend_from_slice(&blocks[row * ty.block_bytes()..][..ty.block_bytes()]);
            }
        }
        Ok(bytes)
    }

    /// What the columns from `first` on should be, given the errors so far.
    fn targets(
        &self,
        uploaded: &Uploaded,
        weights: &Buffer,
        errors: &Buffer,
        first: usize,
        (rows, block): (usize, usize),
    ) -> Result<Buffer> {
        let bytes = rows * block * size_of::<f32>();
        let targets = self.device.alloc("targets", bytes)?;
        self.device.copy(weights, 0, &targets, 0, bytes)?;
        matmul_rows_add(self.device, errors, &uploaded.to_target, &targets, rows, first..first + block)?;
        Ok(targets)
    }

    /// Encodes every block for itself; fills `errors`.
    fn search(&self, ty: GgmlType, values: &[f32], importance: &[f32], errors: &Buffer) -> Result<Vec<u8>> {
        let (device, rows) = (self.device, values.len() / self.width);
        let x = device.upload("weights", &columns(values, self.width, 0, self.width))?;
        let encoded = encode(device, ty, &x, &device.upload("importance", importance)?, rows, self.width)?;
        weight_difference(device, &x, &encoded, errors)?;
        let negated: Vec<f32> = device.read::<f32>(errors)?.into_iter().map(|difference| -difference).collect();
        device.write(errors, 0, &negated)?;
        encoded.download(device)
    }

    fn settle(
        &self,
        uploaded: &Uploaded,
        blocks: &Weight,
        (targets, weights): (&Buffer, &Buffer),
        errors: &Buffer,
        first: usize,
    ) -> Result<()> {
        let Within { coupling, metric, moments } = &uploaded.within[&blocks.cols][first / blocks.cols];
        let inputs = RecodeInputs { targets, weights, coupling, metric, moments: moments.as_ref() };
        recode(self.device, blocks, &inputs, errors, (self.width, first))
    }
}

/// Columns `first..first + block` of `values`, finite.
fn columns(values: &[f32], width: usize, first: usize, block: usize) -> Vec<f32> {
    let finite = |x: &f32| if x.is_finite() { *x } else { 0.0 };
    values.chunks_exact(width).flat_map(|row| row[first..first + block].iter().map(finite)).collect()
}
