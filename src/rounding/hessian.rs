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
    texts: usize,
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

/// Cuts x `[tokens, width]` into texts of `seq_len` tokens. Sums over each, added in their order, do not depend on how many pass a
/// layer together: one bit in H would change all codes that follow.
pub fn texts(
    device: &Device,
    x: &Buffer,
    (tokens, width): (usize, usize),
    seq_len: usize,
    mut each: impl FnMut(&Buffer) -> Result<()>,
) -> Result<()> {
    if tokens == seq_len {
        return each(x);
    }
    let bytes = seq_len * width * size_of::<f32>();
    for text in 0..tokens / seq_len {
        let part = device.alloc("a text", bytes)?;
        device.copy(x, text * bytes, &part, 0, bytes)?;
        each(&part)?;
    }
    Ok(())
}

/// A tap that gathers the [`Hessian`]s of each layer.
/// Inputs whose second moments exceed a binding of the device are left out.
pub struct HessianTap<'a> {
    device: &'a Device,
    seq_len: usize,
    /// One text in so many is held out.
    held_out: Option<usize>,
    gathered: Vec<Hessian>,
}

impl<'a> HessianTap<'a> {
    /// Texts have `seq_len` tokens; one in `held_out` of them is kept for judging, none without it.
    pub fn new(device: &'a Device, seq_len: usize, held_out: Option<usize>) -> Self {
        HessianTap { device, seq_len, held_out, gathered: Vec::new() }
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
                self.gathered.push(Hessian { weights, width, fit, held_out, texts: 0 });
                self.gathered.len() - 1
            }
        };
        let (device, held_out, hessian) = (self.device, self.held_out, &mut self.gathered[index]);
        texts(device, x, (tokens, width), self.seq_len, |text| {
            hessian.texts += 1;
            let is_held_out = held_out.is_some_and(|every| hessian.texts.is_multiple_of(every));
            match &mut hessian.held_out {
                Some(moments) if is_held_out => moments.add(device, text, self.seq_len, width),
                _ => hessian.fit.add(device, text, self.seq_len, width),
            }
        })
    }
}
