//! out\[i\] = scale\[i\] * x\[rows\[i\]\]: some rows of a matrix.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device, GpuDevice};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    width: u32,
    pad: [u32; 2],
}

/// Some rows of a matrix, each with a number that it is multiplied by.
pub struct Rows {
    /// u32, in rising order, or all the same.
    pub(super) places: Buffer,
    /// f32.
    pub(super) scales: Buffer,
    /// How many there are.
    pub count: usize,
}

impl Rows {
    /// # Panics
    /// If the places do not rise, or there are not as many scales.
    pub fn upload(device: &Device, places: &[u32], scales: &[f32]) -> Result<Rows> {
        assert!(places.is_sorted_by(|a, b| a < b), "rows come in rising order, each once");
        assert_eq!(places.len(), scales.len());
        Ok(Rows {
            places: device.upload("places of rows", places)?,
            scales: device.upload("scales of rows", scales)?,
            count: places.len(),
        })
    }

    /// One row so many times: to gather from, not to add to.
    pub fn copies(device: &Device, place: u32, count: usize) -> Result<Rows> {
        Ok(Rows {
            places: device.upload("places of rows", &vec![place; count])?,
            scales: device.upload("scales of rows", &vec![1f32; count])?,
            count,
        })
    }

    /// The same rows as they are.
    pub fn unscaled(&self, device: &Device) -> Result<Rows> {
        let scales = device.upload("scales of rows", &vec![1f32; self.count])?;
        Ok(Rows { places: self.places.clone(), scales, count: self.count })
    }

    /// Runs a shader over the elements of these rows, each of `width`.
    pub(super) fn run(
        &self,
        gpu: &GpuDevice,
        shader: &'static str,
        [x, out]: [&Buffer; 2],
        width: usize,
    ) -> Result<()> {
        let len = self.count * width;
        gpu.run(&Call {
            shader,
            weight: None,
            overrides: &[],
            bindings: &[x, &self.places, &self.scales, out],
            params: bytemuck::bytes_of(&Params { len: word(len)?, width: word(width)?, pad: [0; 2] }),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (3 * ELEMENTS_PER_GROUP) as f64,
        })
    }
}

/// out `[rows.count, width]` from x `[.., width]`.
///
/// # Errors
/// If out is too small, or on a GPU a buffer is larger than a binding.
pub fn gather_rows(dev: &Device, x: &Buffer, rows: &Rows, out: &Buffer, width: usize) -> Result<()> {
    let len = rows.count * width;
    out.expect_words("out of gather_rows", len)?;
    match dev {
        Device::Cpu(_) => {
            let (places, scales) = (rows.places.view::<u32>()?, rows.scales.view::<f32>()?);
            twin(&x.view()?, &places[..rows.count], &scales, &mut out.view_mut::<f32>()?[..len], width);
            Ok(())
        }
        Device::Gpu(gpu) => rows.run(gpu, "gather_rows", [x, out], width),
    }
}

fn twin(x: &[f32], places: &[u32], scales: &[f32], out: &mut [f32], width: usize) {
    let rows = out.par_chunks_exact_mut(width).zip(places).zip(scales).with_min_len(16);
    rows.for_each(|((out, place), scale)| {
        let row = &x[*place as usize * width..][..width];
        out.iter_mut().zip(row).for_each(|(out, x)| *out = scale * x);
    });
}
