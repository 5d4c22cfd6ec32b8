//! H = E[x x^T] of every distinct input of a layer, gathered while tokens stream; one layer's at a time.

use anyhow::Result;

use crate::device::{Buffer, Device};
use crate::forward::tap::Tap;
use crate::kernels::gram::gram;
use crate::kernels::weight::Weight;
use crate::quant::GgmlType;

/// The second moments of one input, on the device.
pub struct Hessian {
    /// The weights that read this input.
    pub weights: Vec<String>,
    pub tokens: usize,
    pub width: usize,
    /// Sum of x x^T over the tokens, `[width, width]` f32.
    pub sum: Buffer,
}

impl Hessian {
    /// H = E[x x^T] as a matrix.
    pub fn normalized(&self, device: &Device) -> Result<Weight> {
        let scale = 1.0 / self.tokens as f32;
        let mut values = device.read::<f32>(&self.sum)?;
        values.iter_mut().for_each(|value| *value *= scale);
        let bytes = bytemuck::cast_slice(&values);
        Weight::upload(device, "second moments", GgmlType::F32, self.width, self.width, bytes)
    }
}

/// A tap that gathers the [`Hessian`]s of each layer.
/// Inputs whose second moments exceed a binding of the device are left out.
pub struct HessianTap<'a> {
    device: &'a Device,
    gathered: Vec<Hessian>,
}

impl<'a> HessianTap<'a> {
    pub fn new(device: &'a Device) -> Self {
        HessianTap { device, gathered: Vec::new() }
    }

    /// What the layer that has just passed gave; the next layer starts anew.
    pub fn take(&mut self) -> Vec<Hessian> {
        std::mem::take(&mut self.gathered)
    }
}

impl Tap for HessianTap<'_> {
    fn linear_input(&mut self, weights: &[&str], x: &Buffer, tokens: usize, width: usize) -> Result<()> {
        let bytes = width * width * size_of::<f32>();
        if bytes > self.device.max_binding_bytes() {
            return Ok(());
        }
        let found = self.gathered.iter().position(|hessian| hessian.weights == weights);
        let index = match found {
            Some(index) => index,
            None => {
                let sum = self.device.alloc("second moments", bytes)?;
                let weights = weights.iter().map(|name| name.to_string()).collect();
                self.gathered.push(Hessian { weights, tokens: 0, width, sum });
                self.gathered.len() - 1
            }
        };
        let hessian = &mut self.gathered[index];
        hessian.tokens += tokens;
        gram(self.device, x, &hessian.sum, tokens, width)
    }
}
