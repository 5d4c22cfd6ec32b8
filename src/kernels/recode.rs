//! Rounds a block of columns again with the scales of its blocks kept. Twin: [`crate::quant::recode::recode`].

use anyhow::{Context, Result, ensure};
use bytemuck::{Pod, Zeroable};

use super::weight::{Weight, row_bytes};
use super::{Call, word};
use crate::device::{Buffer, Device, GpuDevice, shader};
use crate::quant::GgmlType;
use crate::quant::recode::{self, Columns};

/// Columns of one workgroup of the types with a code for each.
const COLUMNS_PER_GROUP: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    first_row: u32,
    cols: u32,
    first: u32,
    first_word: u32,
    pad: [u32; 3],
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
    let shader = shader_of(ty);
    if dev.is_gpu() && shader.is_none() {
        return through_the_host(dev, blocks, inputs, errors, (cols, first));
    }
    ensure!(!inputs.targets.is_same(errors) && !inputs.weights.is_same(errors), "recode cannot work in place");
    for (slab, rows, at) in blocks.parts(0..rows) {
        match dev {
            Device::Cpu(_) => {
                let part = at * block..(at + rows.len()) * block;
                let bytes = rows.start * blocks.file_row_bytes()..rows.end * blocks.file_row_bytes();
                let (targets, weights) = (inputs.targets.view::<f32>()?, inputs.weights.view::<f32>()?);
                let (coupling, metric) = (inputs.coupling.view()?, inputs.metric.view()?);
                let columns = Columns {
                    targets: &targets[part.clone()],
                    weights: &weights[part],
                    coupling: &coupling,
                    metric: &metric,
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
                    pad: [0; 3],
                };
                let shader = shader.expect("others went through the host");
                run(gpu, shader, inputs, (errors, &slab.buffer), block, &params)?;
            }
        }
    }
    Ok(())
}

fn shader_of(ty: GgmlType) -> Option<&'static str> {
    let name = ty.name().to_lowercase();
    shader::entries().find(|entry| entry.strip_prefix("recode/") == Some(&name))
}

fn run(
    gpu: &GpuDevice,
    shader: &'static str,
    inputs: &RecodeInputs,
    (errors, blocks): (&Buffer, &Buffer),
    block: usize,
    params: &Params,
) -> Result<()> {
    let rows_per_group = COLUMNS_PER_GROUP / block;
    gpu.run(&Call {
        shader,
        weight: None,
        overrides: &[],
        bindings: &[inputs.targets, inputs.weights, inputs.coupling, errors, blocks],
        params: bytemuck::bytes_of(params),
        groups: (params.rows as usize).div_ceil(rows_per_group),
        group_cost: (4 * COLUMNS_PER_GROUP * block) as f64,
    })
}

/// For codewords: reads what lives on a GPU, runs the twin, and writes the result back.
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
    let columns =
        Columns { targets: &targets[..used], weights: &weights[..used], coupling: &coupling, metric: &metric };
    let (mut bytes, mut all) = (blocks.download(dev)?, dev.read::<f32>(errors)?);
    recode::recode(blocks.ty, columns, &mut all[..blocks.rows * cols], (cols, first), &mut bytes);
    dev.write(errors, 0, &all)?;
    blocks.overwrite(dev, &bytes)
}
