//! out\[rows\[i\]\] += scale\[i\] * x\[i\]: the way back of [`super::gather_rows`].

use anyhow::Result;
use rayon::prelude::*;

use super::gather_rows::Rows;
use crate::device::{Buffer, Device};

/// Adds x `[rows.count, width]` to rows of out `[.., width]`.
///
/// # Errors
/// If x is too small, or on a GPU a buffer is larger than a binding.
pub fn add_rows(dev: &Device, x: &Buffer, rows: &Rows, out: &Buffer, width: usize) -> Result<()> {
    let len = rows.count * width;
    x.expect_words("x of add_rows", len)?;
    match dev {
        Device::Cpu(_) => {
            let (places, scales) = (rows.places.view::<u32>()?, rows.scales.view::<f32>()?);
            twin(&x.view::<f32>()?[..len], &places[..rows.count], &scales, &mut out.view_mut()?, width);
            Ok(())
        }
        Device::Gpu(gpu) => rows.run(gpu, "add_rows", [x, out], width),
    }
}

/// Goes through the rows of `out` and looks each up, so that threads need no more than their part.
fn twin(x: &[f32], places: &[u32], scales: &[f32], out: &mut [f32], width: usize) {
    let rows = out.par_chunks_exact_mut(width).enumerate().with_min_len(64);
    rows.for_each(|(place, out)| {
        let Ok(at) = places.binary_search(&(place as u32)) else { return };
        let row = &x[at * width..][..width];
        out.iter_mut().zip(row).for_each(|(out, x)| *out += scales[at] * x);
    });
}
