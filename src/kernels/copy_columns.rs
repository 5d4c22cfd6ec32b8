//! dst\[r, d + i\] = src\[r, s + i\]: some columns of a matrix.

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};

/// Where columns begin in a matrix.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// `[rows, width]`.
    pub matrix: &'a Buffer,
    pub width: usize,
    pub first: usize,
}

/// What becomes of the matrix that columns are copied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Its other columns stay as they are.
    Place,
    /// They stay too, and the copied ones are added to what is there.
    Sum,
    /// They become 0.
    Zeros,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    /// Columns of dst that are written, and the first of them.
    span: u32,
    start: u32,
    count: u32,
    src_width: u32,
    src_first: u32,
    dst_width: u32,
    dst_first: u32,
    accumulate: u32,
    pad: [u32; 3],
}

/// Copies `count` columns of `rows` rows.
///
/// # Errors
/// If a matrix has not so many columns or rows, or on a GPU is larger than a binding.
pub fn copy_columns(dev: &Device, src: Columns, dst: Columns, count: usize, rows: usize, onto: Onto) -> Result<()> {
    for (role, columns) in [("src of copy_columns", src), ("dst of copy_columns", dst)] {
        let Columns { matrix, width, first } = columns;
        ensure!(first + count <= width, "{role} has {width} columns, so there are not {count} from {first} on");
        matrix.expect_words(role, rows * width)?;
    }
    match dev {
        Device::Cpu(_) => {
            twin(&src.matrix.view()?, src, &mut dst.matrix.view_mut::<f32>()?[..rows * dst.width], dst, count, onto);
            Ok(())
        }
        Device::Gpu(gpu) => {
            let (start, span) = if onto == Onto::Zeros { (0, dst.width) } else { (dst.first, count) };
            let params = Params {
                len: word(rows * span)?,
                span: word(span)?,
                start: word(start)?,
                count: word(count)?,
                src_width: word(src.width)?,
                src_first: word(src.first)?,
                dst_width: word(dst.width)?,
                dst_first: word(dst.first)?,
                accumulate: (onto == Onto::Sum).into(),
                pad: [0; 3],
            };
            gpu.run(&Call {
                shader: "copy_columns",
                weight: None,
                overrides: &[],
                bindings: &[src.matrix, dst.matrix],
                params: bytemuck::bytes_of(&params),
                groups: (rows * span).div_ceil(ELEMENTS_PER_GROUP),
                group_cost: (4 * ELEMENTS_PER_GROUP) as f64,
            })
        }
    }
}

fn twin(x: &[f32], src: Columns, out: &mut [f32], dst: Columns, count: usize, onto: Onto) {
    let rows = out.par_chunks_exact_mut(dst.width).zip(x.par_chunks_exact(src.width)).with_min_len(16);
    rows.for_each(|(out, x)| {
        if onto == Onto::Zeros {
            out.fill(0.0);
        }
        let (out, x) = (&mut out[dst.first..][..count], &x[src.first..][..count]);
        match onto {
            Onto::Sum => out.iter_mut().zip(x).for_each(|(out, x)| *out += x),
            Onto::Place | Onto::Zeros => out.copy_from_slice(x),
        }
    });
}
