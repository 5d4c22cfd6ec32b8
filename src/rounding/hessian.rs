//! H = E[x x^T] of every distinct input of a layer, gathered while tokens stream; one layer's at a time.

use anyhow::Result;

use crate::device::{Buffer, Device};
use crate::forward::tap::Tap;
use crate::kernels::gram::gram;
use crate::kernels::weight::Weight;
use crate::quant::GgmlType;

/// A sum of x x^T on the device.
pub struct Moments {
    pub tokens: usize,
    /// `[width, width]` f32.
    sum: Buffer,
}

impl Moments {
    /// Nothing summed yet.
    pub fn zeroed(device: &Device, width: usize) -> Result<Self> {
        Ok(Moments { tokens: 0, sum: device.alloc("second moments", width * width * size_of::<f32>())? })
    }

    /// Adds the tokens of x `[tokens, width]`.
    pub fn add(&mut self, device: &Device, x: &Buffer, tokens: usize, width: usize) -> Result<()> {
        self.tokens += tokens;
        gram(device, x, &self.sum, tokens, width)
    }

    /// E[x x^T], row-major.
    pub fn mean(&self, device: &Device) -> Result<Vec<f32>> {
        let scale = 1.0 / self.tokens.max(1) as f32;
        let mut values = device.read::<f32>(&self.sum)?;
        values.iter_mut().for_each(|value| *value *= scale);
        Ok(values)
    }
}

/// The second moments of one input.
pub struct Hessian {
    /// The weights that read this input.
    pub weights: Vec<String>,
    pub width: usize,
    /// Of the tokens to which rounding may fit.
    pub fit: Moments,
    /// Of the tokens on which errors are measured: the same without a split.
    held_out: Option<Moments>,
    batches: usize,
}

impl Hessian {
    /// The second moments on which errors are measured.
    pub fn judge(&self) -> &Moments {
        self.held_out.as_ref().filter(|moments| moments.tokens > 0).unwrap_or(&self.fit)
    }

    /// [`Hessian::judge`] as a matrix on the device.
    pub fn judge_matrix(&self, device: &Device) -> Result<Weight> {
        let values = self.judge().mean(device)?;
        let bytes = bytemuck::cast_slice(&values);
        Weight::upload(device, "second moments", GgmlType::F32, self.width, self.width, bytes)
    }
}

/// Whether the second moments of an input of this width fit the device.
pub fn fits(device: &Device, width: usize) -> bool {
    width * width * size_of::<f32>() <= device.max_binding_bytes()
}

/// A tap that gathers the [`Hessian`]s of each layer.
/// Inputs whose second moments exceed a binding of the device are left out.
pub struct HessianTap<'a> {
    device: &'a Device,
    /// One batch in so many is held out.
    held_out: Option<usize>,
    gathered: Vec<Hessian>,
}

impl<'a> HessianTap<'a> {
    /// `held_out`: one batch of tokens in so many is kept for judging; none without it.
    pub fn new(device: &'a Device, held_out: Option<usize>) -> Self {
        HessianTap { device, held_out, gathered: Vec::new() }
    }

    /// What the layer that has just passed gave; the next layer starts anew.
    pub fn take(&mut self) -> Vec<Hessian> {
        std::mem::take(&mut self.gathered)
    }
}

impl Tap for HessianTap<'_> {
    fn linear_input(&mut self, weights: &[&str], x: &Buffer, tokens: usize, width: usize) -> Result<()> {
        if !fits(self.device, width) {
            return Ok(());
        }
        let found = self.gathered.iter().position(|hessian| hessian.weights == weights);
        let index = match found {
            Some(index) => index,
            None => {
                let fit = Moments::zeroed(self.device, width)?;
                let held_out = self.held_out.map(|_| Moments::zeroed(self.device, width)).transpose()?;
                let weights = weights.iter().map(|name| name.to_string()).collect();
                self.gathered.push(Hessian { weights, width, fit, held_out, batches: 0 });
                self.gathered.len() - 1
            }
        };
        let hessian = &mut self.gathered[index];
        hessian.batches += 1;
        let last_of_so_many = self.held_out.is_some_and(|every| hessian.batches.is_multiple_of(every));
        match &mut hessian.held_out {
            Some(moments) if last_of_so_many => moments.add(self.device, x, tokens, width),
            _ => hessian.fit.add(self.device, x, tokens, width),
        }
    }
}
