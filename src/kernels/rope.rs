//! Rotary position embedding, in place.

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};

/// How rotary embedding pairs the elements of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbouring elements (2i, 2i+1): llama after the converter's permutation.
    Norm,
    /// Elements i and i + rot/2: Qwen, Gemma, Phi.
    Neox,
}

/// What is rotated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeParams {
    /// Rows of x; the position of row t is `t % seq_len`.
    pub tokens: usize,
    pub seq_len: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Leading elements of each head that rotate; even.
    pub rot: usize,
    pub style: RopeStyle,
    /// Rotates back: the transpose, that is the gradient.
    pub inverse: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    pairs: u32,
    seq_len: u32,
    heads: u32,
    head_dim: u32,
    half: u32,
    neox: u32,
    inverse: u32,
    pad: u32,
}

/// Rotates x `[tokens, heads, head_dim]` by `table` `[seq_len, rot/2, 2]`, the cosine and sine of each angle.
///
/// # Errors
/// If a buffer is too small, on a GPU larger than a binding, or if `rot` is odd or wider than a head.
pub fn rope(dev: &Device, x: &Buffer, table: &Buffer, params: RopeParams) -> Result<()> {
    let RopeParams { tokens, seq_len, heads, head_dim, rot, style, inverse } = params;
    ensure!(rot.is_multiple_of(2) && rot <= head_dim, "cannot rotate {rot} of {head_dim} elements");
    x.expect_words("x of rope", tokens * heads * head_dim)?;
    table.expect_words("the table of rope", seq_len.min(tokens) * rot)?;
    match dev {
        Device::Cpu(_) => {
            twin(&mut x.view_mut()?, &table.view()?, params);
            Ok(())
        }
        Device::Gpu(gpu) => {
            let pairs = tokens * heads * rot / 2;
            let shader = Params {
                pairs: word(pairs)?,
                seq_len: word(seq_len)?,
                heads: word(heads)?,
                head_dim: word(head_dim)?,
                half: word(rot / 2)?,
                neox: (style == RopeStyle::Neox).into(),
                inverse: inverse.into(),
                pad: 0,
            };
            gpu.run(&Call {
                shader: "rope",
                weight: None,
                overrides: &[],
                bindings: &[table, x],
                params: bytemuck::bytes_of(&shader),
                groups: pairs.div_ceil(ELEMENTS_PER_GROUP),
                group_cost: (32 * ELEMENTS_PER_GROUP) as f64,
            })
        }
    }
}

pub fn twin(x: &mut [f32], table: &[f32], params: RopeParams) {
    let RopeParams { tokens, seq_len, heads, head_dim, rot, style, inverse } = params;
    let width = heads * head_dim;
    let (step, reach) = match style {
        RopeStyle::Norm => (2, 1),
        RopeStyle::Neox => (1, rot / 2),
    };
    let sign = if inverse { -1.0 } else { 1.0 };
    x[..tokens * width].par_chunks_mut(width).with_min_len(16).enumerate().for_each(|(token, row)| {
        let angles = &table[token % seq_len * rot..][..rot];
        for head in row.chunks_exact_mut(head_dim) {
            for (i, angle) in angles.as_chunks::<2>().0.iter().enumerate() {
                let (cos, sin) = (angle[0], sign * angle[1]);
                let (a, b) = (head[i * step], head[i * step + reach]);
                head[i * step] = a * cos - b * sin;
                head[i * step + reach] = a * sin + b * cos;
            }
        }
    });
}
