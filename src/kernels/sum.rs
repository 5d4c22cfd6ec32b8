//! out = a + b.

use anyhow::Result;
use rayon::prelude::*;

use super::glu::Params;
use super::{Call, ELEMENTS_PER_GROUP};
use crate::device::{Buffer, Device};

/// `out[i] = a[i] + b[i]` for `len` elements.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn sum(dev: &Device, a: &Buffer, b: &Buffer, out: &Buffer, len: usize) -> Result<()> {
    for (role, buffer) in [("a of sum", a), ("b of sum", b), ("out of sum", out)] {
        buffer.expect_words(role, len)?;
    }
    match dev {
        Device::Cpu(_) => {
            twin(&a.view::<f32>()?[..len], &b.view()?, &mut out.view_mut()?);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "sum",
            weight: None,
            overrides: &[],
            bindings: &[a, b, out],
            params: bytemuck::bytes_of(&Params::plain(len)?),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (2 * ELEMENTS_PER_GROUP) as f64,
        }),
    }
}

fn twin(a: &[f32], b: &[f32], out: &mut [f32]) {
    let all = out.par_iter_mut().zip(a).zip(b).with_min_len(4096);
    all.for_each(|((out, a), b)| *out = a + b);
}
