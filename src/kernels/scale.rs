//! x *= factor.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    factor: f32,
    pad: [u32; 2],
}

/// Multiplies `len` elements of x in place.
///
/// # Errors
/// If x is too small, or on a GPU larger than a binding.
pub fn scale(dev: &Device, x: &Buffer, factor: f32, len: usize) -> Result<()> {
    x.expect_words("x of scale", len)?;
    match dev {
        Device::Cpu(_) => {
            twin(&mut x.view_mut::<f32>()?[..len], factor);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "scale",
            weight: None,
            overrides: &[],
            bindings: &[x],
            params: bytemuck::bytes_of(&Params { len: word(len)?, factor, pad: [0; 2] }),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (2 * ELEMENTS_PER_GROUP) as f64,
        }),
    }
}

fn twin(x: &mut [f32], factor: f32) {
    x.par_iter_mut().with_min_len(4096).for_each(|x| *x *= factor);
}
