//! What a model does to its logits before they mean anything: a scale, and a soft cap.

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, ELEMENTS_PER_GROUP, tanh, word};
use crate::device::{Buffer, Device};

/// z becomes scale z, and that softcap tanh(scale z / softcap).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitShape {
    pub scale: f32,
    pub softcap: Option<f32>,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    scale: f32,
    /// 0 if there is none.
    softcap: f32,
    pad: u32,
}

impl LogitShape {
    /// Logits as they are.
    pub const PLAIN: LogitShape = LogitShape { scale: 1.0, softcap: None };

    fn shaped(self, z: f32) -> f32 {
        let scaled = self.scale * z;
        self.softcap.map_or(scaled, |cap| cap * tanh(scaled / cap))
    }

    /// What a change of z does to what it has become.
    fn slope(self, shaped: f32) -> f32 {
        let share = self.softcap.map_or(0.0, |cap| shaped / cap);
        self.scale * (1.0 - share * share)
    }
}

/// Shapes `len` logits in place.
///
/// # Errors
/// If a buffer is too small, on a GPU larger than a binding, or if the cap is not above 0.
pub fn shape_logits(dev: &Device, z: &Buffer, len: usize, shape: LogitShape) -> Result<()> {
    z.expect_words("logits to shape", len)?;
    if dev.is_gpu() {
        return record(dev, "logit_shape", &[z], len, shape);
    }
    let each = |z: &mut f32| *z = shape.shaped(*z);
    z.view_mut::<f32>()?[..len].par_iter_mut().with_min_len(4096).for_each(each);
    Ok(())
}

/// Turns gradients at shaped logits into those at the logits, in place. `shaped` is needed where there is a cap.
///
/// # Errors
/// As [`shape_logits`].
pub fn shape_logits_backward(dev: &Device, shaped: &Buffer, dz: &Buffer, len: usize, shape: LogitShape) -> Result<()> {
    dz.expect_words("gradients of logits", len)?;
    shaped.expect_words("shaped logits", len)?;
    if dev.is_gpu() {
        return record(dev, "logit_shape_backward", &[shaped, dz], len, shape);
    }
    let shaped = shaped.view::<f32>()?;
    let mut dz = dz.view_mut::<f32>()?;
    let all = dz[..len].par_iter_mut().zip(&shaped[..len]).with_min_len(4096);
    all.for_each(|(dz, shaped)| *dz *= shape.slope(*shaped));
    Ok(())
}

fn record(dev: &Device, shader: &'static str, bindings: &[&Buffer], len: usize, shape: LogitShape) -> Result<()> {
    let Device::Gpu(gpu) = dev else { unreachable!("only called for a GPU") };
    let LogitShape { scale, softcap } = shape;
    ensure!(softcap.is_none_or(|cap| cap > 0.0), "logits cannot be capped to nothing");
    gpu.run(&Call {
        shader,
        weight: None,
        overrides: &[],
        bindings,
        params: bytemuck::bytes_of(&Params { len: word(len)?, scale, softcap: softcap.unwrap_or(0.0), pad: 0 }),
        groups: len.div_ceil(ELEMENTS_PER_GROUP),
        group_cost: (16 * ELEMENTS_PER_GROUP) as f64,
    })
}
