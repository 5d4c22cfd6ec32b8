//! out = a + b, or a - b.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    sign: f32,
    pad: [u32; 2],
}

/// `out[i] = a[i] + b[i]` for `len` elements.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn sum(dev: &Device, a: &Buffer, b: &Buffer, out: &Buffer, len: usize) -> Result<()> {
    signed_sum(dev, a, 1.0, b, out, len)
}

/// `out[i] = a[i] - b[i]` for `len` elements.
///
/// # Errors
/// As [`sum`].
pub fn difference(dev: &Device, a: &Buffer, b: &Buffer, out: &Buffer, len: usize) -> Result<()> {
    signed_sum(dev, a, -1.0, b, out, len)
}

/// A product with 1 or -1 is exact, so nothing is lost by it.
fn signed_sum(dev: &Device, a: &Buffer, sign: f32, b: &Buffer, out: &Buffer, len: usize) -> Result<()> {
    for (role, buffer) in [("a of sum", a), ("b of sum", b), ("out of sum", out)] {
        buffer.expect_words(role, len)?;
    }
    match dev {
        Device::Cpu(_) => {
            twin(&a.view::<f32>()?[..len], sign, &b.view()?, &mut out.view_mut()?);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "sum",
            weight: None,
            overrides: &[],
            bindings: &[a, b, out],
            params: bytemuck::bytes_of(&Params { len: word(len)?, sign, pad: [0; 2] }),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (2 * ELEMENTS_PER_GROUP) as f64,
        }),
    }
}

fn twin(a: &[f32], sign: f32, b: &[f32], out: &mut [f32]) {
    let all = out.par_iter_mut().zip(a).zip(b).with_min_len(4096);
    all.for_each(|((out, a), b)| *out = a + sign * b);
}
