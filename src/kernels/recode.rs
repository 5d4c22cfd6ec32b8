//! Rounds a block of columns again in blocks that have scales. Twin: [`crate::quant::recode::recode`].

use anyhow::{Context, Result, ensure};

use super::weight::Weight;
use crate::device::{Buffer, Device};
use crate::quant::recode::{self, Columns};

/// What [`recode`] reads; matrices are row-major, `block` is the block length of the type.
pub struct RecodeInputs<'a> {
    /// `[rows, block]`: the value that each weight should have, given the errors of all other units.
    pub targets: &'a Buffer,
    /// `[rows, block]`: the weights.
    pub weights: &'a Buffer,
    /// `[block, block]`: what a unit of error in a column adds to the target of each later column.
    pub coupling: &'a Buffer,
    /// `[block, unit]`: the symmetric matrix of each unit's costs.
    pub metric: &'a Buffer,
    /// Whether the errors are those of the codes in the blocks: codewords then are only replaced by better ones.
    pub coded: bool,
}

/// Replaces the codes of `blocks` `[rows, block]` and, in `errors` `[rows, cols]` (weight less decoded value), those of its
/// columns, which are those from `first` on.
///
/// # Errors
/// If the type has no blocks, or a buffer is too small.
pub fn recode(
    dev: &Device,
    blocks: &Weight,
    inputs: &RecodeInputs,
    errors: &Buffer,
    (cols, first): (usize, usize),
) -> Result<()> {
    let (ty, rows, block) = (blocks.ty, blocks.rows, blocks.ty.block_len());
    let unit = recode::unit(ty).with_context(|| format!("this tensor type has no codes to choose: `{ty}`"))?;
    ensure!(blocks.cols == block, "recode takes one block of columns, not {} of {ty}", blocks.cols);
    ensure!(first + block <= cols, "column {first} of {cols} begins no block of {ty}");
    inputs.targets.expect_words("targets of recode", rows * block)?;
    inputs.weights.expect_words("weights of recode", rows * block)?;
    inputs.coupling.expect_words("the coupling of recode", block * block)?;
    inputs.metric.expect_words("the metric of recode", block * unit)?;
    errors.expect_words("errors of recode", rows * cols)?;
    let Device::Cpu(_) = dev else {
        return through_the_host(dev, blocks, inputs, errors, (cols, first));
    };
    for (slab, rows, at) in blocks.parts(0..rows) {
        let part = at * block..(at + rows.len()) * block;
        let bytes = rows.start * blocks.file_row_bytes()..rows.end * blocks.file_row_bytes();
        let (targets, weights) = (inputs.targets.view::<f32>()?, inputs.weights.view::<f32>()?);
        let (coupling, metric) = (inputs.coupling.view()?, inputs.metric.view()?);
        let columns = Columns {
            targets: &targets[part.clone()],
            weights: &weights[part],
            coupling: &coupling,
            metric: &metric,
            coded: inputs.coded,
        };
        let errors = &mut errors.view_mut::<f32>()?[at * cols..(at + rows.len()) * cols];
        recode::recode(ty, columns, errors, (cols, first), &mut slab.buffer.view_mut::<u8>()?[bytes]);
    }
    Ok(())
}

/// Reads what lives on a GPU, runs the twin, and writes the result back.
fn through_the_host(
    dev: &Device,
    blocks: &Weight,
    inputs: &RecodeInputs,
    errors: &Buffer,
    (cols, first): (usize, usize),
) -> Result<()> {
    let (targets, weights) = (dev.read::<f32>(inputs.targets)?, dev.read::<f32>(inputs.weights)?);
    let (coupling, metric) = (dev.read::<f32>(inputs.coupling)?, dev.read::<f32>(inputs.metric)?);
    let used = blocks.rows * blocks.cols;
    let columns = Columns {
        targets: &targets[..used],
        weights: &weights[..used],
        coupling: &coupling,
        metric: &metric,
        coded: inputs.coded,
    };
    let (mut bytes, mut all) = (blocks.download(dev)?, dev.read::<f32>(errors)?);
    recode::recode(blocks.ty, columns, &mut all[..blocks.rows * cols], (cols, first), &mut bytes);
    dev.write(errors, 0, &all)?;
    blocks.overwrite(dev, &bytes)
}
