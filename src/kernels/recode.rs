//! Rounds a block of columns again in blocks that have scales. Twin: [`crate::quant::recode::recode`].

use anyhow::{Context, Result, ensure};
use bytemuck::{Pod, Zeroable};

use super::weight::{Weight, row_bytes};
use super::{Call, word};
use crate::device::{Buffer, Device, GpuDevice, shader};
use crate::quant::GgmlType;
use crate::quant::recode::{self, Columns, Within};

/// Columns of one workgroup of the types with a code for each.
const COLUMNS_PER_GROUP: usize = 1024;
/// Operations of the search for codewords, about, per column.
const SEARCH_COST: usize = 3000;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    first_row: u32,
    cols: u32,
    first: u32,
    first_word: u32,
    coded: u32,
    pad: [u32; 2],
}

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
    /// `[block, block]`: the columns' own part of H, if the errors are those of the codes in the blocks. Scales then are fitted to
    /// these codes, and codewords only replaced by better ones.
    pub moments: Option<&'a Buffer>,
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
    if let Some(moments) = inputs.moments {
        moments.expect_words("the moments of recode", block * block)?;
    }
    errors.expect_words("errors of recode", rows * cols)?;
    ensure!(!inputs.targets.is_same(errors) && !inputs.weights.is_same(errors), "recode cannot work in place");
    for (slab, rows, at) in blocks.parts(0..rows) {
        match dev {
            Device::Cpu(_) => {
                let part = at * block..(at + rows.len()) * block;
                let bytes = rows.start * blocks.file_row_bytes()..rows.end * blocks.file_row_bytes();
                let (targets, weights) = (inputs.targets.view::<f32>()?, inputs.weights.view::<f32>()?);
                let (coupling, metric) = (inputs.coupling.view()?, inputs.metric.view()?);
                let moments = inputs.moments.map(|moments| moments.view::<f32>()).transpose()?;
                let columns = Columns {
                    targets: &targets[part.clone()],
                    weights: &weights[part],
                    within: Within { coupling: &coupling, metric: &metric, moments: moments.as_deref() },
                };
                let errors = &mut errors.view_mut::<f32>()?[at * cols..(at + rows.len()) * cols];
                recode::recode(ty, columns, errors, (cols, first), &mut slab.buffer.view_mut::<u8>()?[bytes]);
            }
            Device::Gpu(gpu) => {
                let params = Params {
                    rows: word(rows.len())?,
                    first_row: word(at)?,
                    cols: word(cols)?,
                    first: word(first)?,
                    first_word: word(rows.start * row_bytes(dev, ty, block) / 4)?,
                    coded: inputs.moments.is_some().into(),
                    pad: [0; 2],
                };
                run(gpu, ty, inputs, (errors, &slab.buffer), unit, &params)?;
            }
        }
    }
    Ok(())
}

fn run(
    gpu: &GpuDevice,
    ty: GgmlType,
    inputs: &RecodeInputs,
    (errors, blocks): (&Buffer, &Buffer),
    unit: usize,
    params: &Params,
) -> Result<()> {
    let name = ty.name().to_lowercase();
    let shader = shader::entries().find(|entry| entry.strip_prefix("recode/") == Some(&name));
    let (block, rows) = (ty.block_len(), params.rows as usize);
    // without moments they are not read, but bound
    let moments = inputs.moments.unwrap_or(inputs.coupling);
    let mut bindings = vec![inputs.targets, inputs.weights, inputs.coupling, errors, blocks, moments];
    // passes over the coupling, and over H for the scales
    let passes = if inputs.moments.is_some() { 6 } else { 1 };
    let (rows_per_group, search_cost) = match unit {
        1 => (COLUMNS_PER_GROUP / block, 0),
        _ => {
            bindings.push(inputs.metric);
            (1, SEARCH_COST * block)
        }
    };
    gpu.run(&Call {
        shader: shader.with_context(|| format!("no shader recodes this tensor type: `{ty}`"))?,
        weight: None,
        overrides: &[],
        bindings: &bindings,
        params: bytemuck::bytes_of(params),
        groups: rows.div_ceil(rows_per_group),
        group_cost: (rows_per_group * (passes * 4 * block * block + search_cost)) as f64,
    })
}
