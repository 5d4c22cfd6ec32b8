//! H = E[x x^T] of every distinct input of a layer, gathered while tokens stream; one layer's at a time.
//! Behind quantized layers also how far the input has moved from the original's.

use std::ops::Range;

use anyhow::Result;

use super::drift::{Drift, DriftSums, Moved};
use crate::device::{Buffer, Device};
use crate::forward::lanes::{LaneInputs, LaneTap};
use crate::forward::tap::Tap;
use crate::kernels::gram::{Columns, cross_gram, gram};
use crate::kernels::weight::Weight;
use crate::quant::GgmlType;

/// Bytes that factoring H and rounding with it take per element of H, on the host and on the device.
const BYTES_PER_ELEMENT: usize = 64;

/// Columns of a panel are a multiple of the largest block.
const PANEL_UNIT: usize = 256;

/// A sum of x y^T on the device.
pub struct Moments {
    pub tokens: usize,
    /// `[columns of x, columns of y]` f32.
    sum: Buffer,
}

impl Moments {
    /// Nothing summed yet.
    pub fn zeroed(device: &Device, rows: usize, cols: usize) -> Result<Self> {
        Ok(Moments { tokens: 0, sum: device.alloc("second moments", rows * cols * size_of::<f32>())? })
    }

    /// Adds x x^T of some tokens.
    pub fn add(&mut self, device: &Device, x: &Columns, tokens: usize) -> Result<()> {
        self.tokens += tokens;
        gram(device, x, &self.sum, tokens)
    }

    /// Adds x y^T of some tokens.
    pub fn add_product(&mut self, device: &Device, x: &Columns, y: &Columns, tokens: usize) -> Result<()> {
        self.tokens += tokens;
        cross_gram(device, x, y, &self.sum, tokens)
    }

    /// E[x y^T], row-major.
    pub fn mean(&self, device: &Device) -> Result<Vec<f32>> {
        let scale = 1.0 / self.tokens.max(1) as f32;
        let mut values = device.read::<f32>(&self.sum)?;
        values.iter_mut().for_each(|value| *value *= scale);
        Ok(values)
    }
}

/// What is summed of some columns of an input.
pub struct Sums {
    h: Moments,
    drift: Option<DriftSums>,
}

impl Sums {
    /// E[x x^T] of the columns.
    pub fn h(&self, device: &Device) -> Result<Vec<f32>> {
        self.h.mean(device)
    }

    /// How far the input has moved, where that is known.
    pub fn drift(&self, device: &Device) -> Result<Option<Drift>> {
        self.drift.as_ref().map(|sums| sums.mean(device)).transpose()
    }

    /// `x` and what it has moved by are of one text.
    fn add(&mut self, device: &Device, x: &Columns, moved: Option<&Moved>, tokens: usize) -> Result<()> {
        self.h.add(device, x, tokens)?;
        match (&mut self.drift, moved) {
            (Some(drift), Some(moved)) => drift.add(device, x, moved, tokens),
            _ => Ok(()),
        }
    }
}

/// Columns of an input whose errors are seen together: all of them unless H is too large for the memory.
pub struct Panel {
    pub cols: Range<usize>,
    /// Of the tokens to which rounding may fit.
    pub fit: Sums,
    /// Of the tokens on which errors are measured: the same without a split.
    held_out: Option<Sums>,
}

impl Panel {
    /// On what errors are measured.
    pub fn judge(&self) -> &Sums {
        self.held_out.as_ref().filter(|sums| sums.h.tokens > 0).unwrap_or(&self.fit)
    }

    /// H of [`Panel::judge`] as a matrix on the device.
    pub fn judge_matrix(&self, device: &Device) -> Result<Weight> {
        matrix(device, &self.judge().h(device)?, self.cols.len())
    }
}

/// A matrix of some rows of `cols` columns on the device.
pub fn matrix(device: &Device, values: &[f32], cols: usize) -> Result<Weight> {
    let bytes = bytemuck::cast_slice(values);
    Weight::upload(device, "second moments", GgmlType::F32, values.len() / cols, cols, bytes)
}

/// The second moments of one input.
pub struct Hessian {
    /// The weights that read this input.
    pub weights: Vec<String>,
    pub width: usize,
    pub panels: Vec<Panel>,
    texts: usize,
}

/// The columns of an input of `width` in panels whose second moments fit a binding and `memory` bytes.
pub fn panels(device: &Device, width: usize, memory: usize) -> Vec<Range<usize>> {
    let fitting = (device.max_binding_bytes() / size_of::<f32>()).min(memory / BYTES_PER_ELEMENT).isqrt();
    let count = width.div_ceil(fitting.max(1));
    // never narrower than the largest block
    let step = width.div_ceil(count).next_multiple_of(PANEL_UNIT);
    let step = if step > fitting { (fitting - fitting % PANEL_UNIT).max(PANEL_UNIT) } else { step };
    let step = if count == 1 { width } else { step };
    (0..width).step_by(step).map(|first| first..(first + step).min(width)).collect()
}

/// Whether the second moments of an input of this width fit the device.
pub fn fits(device: &Device, width: usize) -> bool {
    width * width * size_of::<f32>() <= device.max_binding_bytes()
}

/// Text `index` of x `[tokens, width]`, in which each has `seq_len` tokens. Sums over each, added in their order, do not depend
/// on how many pass a layer together: one bit in H would change all codes that follow.
pub fn text(
    device: &Device,
    x: &Buffer,
    (tokens, width): (usize, usize),
    seq_len: usize,
    index: usize,
) -> Result<Buffer> {
    if tokens == seq_len {
        return Ok(x.clone());
    }
    let bytes = seq_len * width * size_of::<f32>();
    let part = device.alloc("a text", bytes)?;
    device.copy(x, index * bytes, &part, 0, bytes)?;
    Ok(part)
}

/// A tap that gathers the [`Hessian`]s of each layer.
pub struct HessianTap<'a> {
    device: &'a Device,
    seq_len: usize,
    /// One text in so many is held out.
    held_out: Option<usize>,
    /// Bytes for one H and what is made of it.
    memory: usize,
    gathered: Vec<Hessian>,
}

impl<'a> HessianTap<'a> {
    /// Texts have `seq_len` tokens; one in `held_out` of them is kept for judging, none without it.
    pub fn new(device: &'a Device, seq_len: usize, held_out: Option<usize>, memory: usize) -> Self {
        HessianTap { device, seq_len, held_out, memory, gathered: Vec::new() }
    }

    /// What the layer that has just passed gave; the next layer starts anew.
    pub fn take(&mut self) -> Vec<Hessian> {
        std::mem::take(&mut self.gathered)
    }

    /// The entry of an input. `residual` is the width of what its output is added to, if drift is gathered.
    fn entry<S: AsRef<str>>(&mut self, weights: &[S], width: usize, drift: Option<usize>) -> Result<&mut Hessian> {
        let names = || weights.iter().map(AsRef::as_ref);
        let found = self.gathered.iter().position(|hessian| names().eq(hessian.weights.iter().map(String::as_str)));
        let index = match found {
            Some(index) => index,
            None => {
                let ranges = panels(self.device, width, self.memory).into_iter();
                let panels = ranges.map(|cols| self.panel(cols, drift)).collect::<Result<Vec<_>>>()?;
                let weights = names().map(str::to_owned).collect();
                self.gathered.push(Hessian { weights, width, panels, texts: 0 });
                self.gathered.len() - 1
            }
        };
        Ok(&mut self.gathered[index])
    }

    fn panel(&self, cols: Range<usize>, drift: Option<usize>) -> Result<Panel> {
        let sums = || -> Result<Sums> {
            let drift = drift.map(|residual| DriftSums::zeroed(self.device, cols.len(), residual)).transpose()?;
            Ok(Sums { h: Moments::zeroed(self.device, cols.len(), cols.len())?, drift })
        };
        Ok(Panel { fit: sums()?, held_out: self.held_out.map(|_| sums()).transpose()?, cols })
    }
}

impl Hessian {
    /// Adds one text.
    fn add(
        &mut self,
        device: &Device,
        x: &Buffer,
        moved: Option<&Moved>,
        tokens: usize,
        held_out: Option<usize>,
    ) -> Result<()> {
        self.texts += 1;
        let is_held_out = held_out.is_some_and(|every| self.texts.is_multiple_of(every));
        for panel in &mut self.panels {
            let sums = match &mut panel.held_out {
                Some(sums) if is_held_out => sums,
                _ => &mut panel.fit,
            };
            let x = Columns { matrix: x, width: self.width, range: panel.cols.clone() };
            sums.add(device, &x, moved, tokens)?;
        }
        Ok(())
    }
}

impl Tap for HessianTap<'_> {
    fn linear_input(&mut self, weights: &[&str], x: &Buffer, tokens: usize, width: usize) -> Result<()> {
        let (device, held_out, seq_len) = (self.device, self.held_out, self.seq_len);
        let hessian = self.entry(weights, width, None)?;
        for index in 0..tokens / seq_len {
            let x = text(device, x, (tokens, width), seq_len, index)?;
            hessian.add(device, &x, None, seq_len, held_out)?;
        }
        Ok(())
    }
}

impl LaneTap for HessianTap<'_> {
    fn linear_inputs(&mut self, inputs: &LaneInputs, tokens: usize) -> Result<()> {
        let (device, held_out, seq_len, width) = (self.device, self.held_out, self.seq_len, inputs.width);
        let hessian = self.entry(inputs.weights, width, Some(inputs.residual_width(tokens)))?;
        for index in 0..tokens / seq_len {
            let x = text(device, inputs.quantized, (tokens, width), seq_len, index)?;
            let moved = Moved::of_text(device, inputs, &x, tokens, seq_len, index)?;
            hessian.add(device, &x, Some(&moved), seq_len, held_out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_fit_the_memory_and_begin_with_blocks() {
        let device = Device::cpu();
        assert_eq!(panels(&device, 4096, 4 << 30), vec![0..4096]);
        assert_eq!(panels(&device, 80, 1 << 30), vec![0..80]);
        for (width, memory) in [(14336, 4usize << 30), (28672, 1 << 30), (2880, 100 << 20), (1000, 1 << 20)] {
            let panels = panels(&device, width, memory);
            assert!(panels.len() > 1);
            assert_eq!((panels[0].start, panels[panels.len() - 1].end), (0, width));
            assert!(panels.windows(2).all(|pair| pair[0].end == pair[1].start));
            for panel in panels {
                assert!(panel.start.is_multiple_of(PANEL_UNIT));
                assert!(panel.len() <= PANEL_UNIT || panel.len().pow(2) * BYTES_PER_ELEMENT <= memory);
            }
        }
    }
}
