//! Quantizes a matrix on the device. Twin: [`crate::quant::encode`].

use std::ops::Range;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};

use super::weight::{Weight, row_bytes};
use super::{Call, word};
use crate::device::{Buffer, Device, GpuDevice};
use crate::quant::{self, GgmlType};

/// Sub-blocks of one workgroup.
const LANES: usize = 64;
/// Words of one workgroup of the plain types.
const WORDS: usize = 256;

/// How a type is encoded on a GPU.
struct Plan {
    shader: &'static str,
    /// Weights of a sub-block.
    sub: usize,
    /// Passes over the weights, about.
    passes: usize,
}

fn plan(ty: GgmlType) -> Option<Plan> {
    let (shader, sub, passes) = match ty {
        GgmlType::Q8_0 => ("encode/q8_0", 32, 18),
        GgmlType::Q4_0 => ("encode/q4_0", 32, 60),
        GgmlType::Q4_1 => ("encode/q4_1", 32, 63),
        GgmlType::Q5_0 => ("encode/q5_0", 32, 60),
        GgmlType::Q5_1 => ("encode/q5_1", 32, 63),
        GgmlType::Q2_K => ("encode/q2_k", 16, 60),
        GgmlType::Q3_K => ("encode/q3_k", 16, 50),
        GgmlType::Q4_K => ("encode/q4_k", 32, 70),
        GgmlType::Q5_K => ("encode/q5_k", 32, 70),
        GgmlType::Q6_K => ("encode/q6_k", 16, 45),
        GgmlType::IQ4_NL => ("encode/iq4_nl", 32, 150),
        GgmlType::IQ4_XS => ("encode/iq4_xs", 32, 160),
        GgmlType::IQ2_XXS => ("encode/iq2_xxs", 32, 400),
        GgmlType::IQ2_XS => ("encode/iq2_xs", 16, 500),
        GgmlType::IQ2_S => ("encode/iq2_s", 16, 600),
        GgmlType::IQ3_XXS => ("encode/iq3_xxs", 32, 1000),
        GgmlType::IQ3_S => ("encode/iq3_s", 32, 1000),
        GgmlType::IQ1_S => ("encode/iq1_s", 32, 1200),
        GgmlType::IQ1_M => ("encode/iq1_m", 16, 1200),
        GgmlType::TQ1_0 => ("encode/tq1_0", 16, 12),
        GgmlType::TQ2_0 => ("encode/tq2_0", 16, 15),
        GgmlType::MXFP4 => ("encode/mxfp4", 32, 10),
        GgmlType::NVFP4 => ("encode/nvfp4", 16, 30),
        GgmlType::Q1_0 => ("encode/q1_0", 128, 4),
        GgmlType::Q2_0 => ("encode/q2_0", 4, 40),
        _ => return None,
    };
    Some(Plan { shader, sub, passes })
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    cols: u32,
    subs: u32,
    first_sub: u32,
    first_word: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PlainParams {
    words: u32,
    first: u32,
    first_word: u32,
    pad: u32,
}

/// The matrix x `[rows, cols]` in type `ty`, so that `sum_j importance[j] * (decoded[j] - x[j])^2` is small in every row.
/// `importance` is `[cols]`. Both devices make the same bytes, up to near ties where a GPU divides less exactly.
///
/// # Errors
/// If the type cannot be encoded or does not fit the columns, a buffer is too small, or on a GPU larger than a binding.
pub fn encode(dev: &Device, ty: GgmlType, x: &Buffer, importance: &Buffer, rows: usize, cols: usize) -> Result<Weight> {
    let weight = Weight::zeroed(dev, x.label(), ty, rows, cols)?;
    encode_rows(dev, x, importance, &weight, 0..rows)?;
    Ok(weight)
}

/// As [`encode`]: the bytes of a GGUF tensor of `values`, rows of `cols`.
pub fn encode_values(dev: &Device, ty: GgmlType, values: &[f32], importance: &Buffer, cols: usize) -> Result<Vec<u8>> {
    let x = dev.upload("weights", values)?;
    encode(dev, ty, &x, importance, values.len() / cols, cols)?.download(dev)
}

/// As [`encode`], into some rows of an existing matrix: x is `[rows.len(), cols]`.
pub fn encode_rows(dev: &Device, x: &Buffer, importance: &Buffer, weight: &Weight, rows: Range<usize>) -> Result<()> {
    let (ty, cols) = (weight.ty, weight.cols);
    ensure!(quant::format(ty).is_some(), "this tensor type cannot be written: `{ty}`");
    ensure!(rows.end <= weight.rows, "row {} is beyond the {} rows of the matrix", rows.end, weight.rows);
    x.expect_words("x of encode", rows.len() * cols)?;
    importance.expect_words("importance of encode", cols)?;
    for (slab, rows, first) in weight.parts(rows) {
        let part = first * cols..(first + rows.len()) * cols;
        match dev {
            Device::Cpu(_) => {
                let (x, importance) = (x.view::<f32>()?, importance.view::<f32>()?);
                let row = weight.file_row_bytes();
                let bytes = &mut slab.buffer.view_mut::<u8>()?[rows.start * row..rows.end * row];
                quant::encode(ty, &x[part], &importance[..cols], bytes)?;
            }
            Device::Gpu(gpu) => {
                let start = rows.start * row_bytes(dev, ty, cols);
                match plan(ty) {
                    Some(plan) => run(gpu, &plan, (x, importance, cols), part, (&slab.buffer, start))?,
                    None if ty == GgmlType::F32 => dev.copy(x, part.start * 4, &slab.buffer, start, part.len() * 4)?,
                    None => run_plain(gpu, ty, x, part, (&slab.buffer, start))?,
                }
            }
        }
    }
    Ok(())
}

fn run(
    gpu: &GpuDevice,
    plan: &Plan,
    (x, importance, cols): (&Buffer, &Buffer, usize),
    part: Range<usize>,
    (blocks, start): (&Buffer, usize),
) -> Result<()> {
    let subs = part.len() / plan.sub;
    let params = Params {
        cols: word(cols)?,
        subs: word(subs)?,
        first_sub: word(part.start / plan.sub)?,
        first_word: word(start / 4)?,
    };
    gpu.run(&Call {
        shader: plan.shader,
        weight: None,
        overrides: &[],
        bindings: &[x, importance, blocks],
        params: bytemuck::bytes_of(&params),
        groups: subs.div_ceil(LANES),
        group_cost: (10 * plan.passes * plan.sub * LANES) as f64,
    })
}

fn run_plain(
    gpu: &GpuDevice,
    ty: GgmlType,
    x: &Buffer,
    part: Range<usize>,
    (blocks, start): (&Buffer, usize),
) -> Result<()> {
    let words = part.len() / 2;
    let params = PlainParams { words: word(words)?, first: word(part.start)?, first_word: word(start / 4)?, pad: 0 };
    gpu.run(&Call {
        shader: if ty == GgmlType::F16 { "encode/f16" } else { "encode/bf16" },
        weight: None,
        overrides: &[],
        bindings: &[x, blocks],
        params: bytemuck::bytes_of(&params),
        groups: words.div_ceil(WORDS),
        group_cost: (40 * WORDS) as f64,
    })
}
