//! Weight matrices on a device, in slabs of rows that each fit a binding.
//!
//! On a GPU every block is padded to whole words; on the CPU the bytes are those of the file.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::device::{Buffer, Device};
use crate::quant::device_layout::{device_block_bytes, pad_blocks, strip_blocks};
use crate::quant::{self, GgmlType};

/// A matrix `[rows, cols]` of any type.
pub struct Weight {
    pub ty: GgmlType,
    pub rows: usize,
    pub cols: usize,
    slabs: Vec<Slab>,
}

/// Some consecutive rows of a weight.
pub struct Slab {
    pub buffer: Buffer,
    pub first_row: usize,
    pub rows: usize,
}

impl Weight {
    /// A matrix of zero bytes, to be filled by a kernel.
    pub fn zeroed(dev: &Device, label: &str, ty: GgmlType, rows: usize, cols: usize) -> Result<Weight> {
        ensure!(ty.fits(cols), "tensor `{label}` has {cols} columns, not a multiple of the block of {ty}");
        let row = row_bytes(dev, ty, cols);
        ensure!(
            !dev.is_gpu() || row.is_multiple_of(4),
            "tensor `{label}` has an odd number of columns in {ty}, which a GPU cannot address: `{cols}`"
        );
        let rows_per_slab = (dev.max_binding_bytes() / row.max(1)).min(rows.max(1));
        ensure!(rows_per_slab > 0, "a row of tensor `{label}` is larger than {} may bind: {row} bytes", dev.name());
        let mut slabs = Vec::new();
        for first_row in (0..rows).step_by(rows_per_slab) {
            let rows = rows_per_slab.min(rows - first_row);
            slabs.push(Slab { buffer: dev.alloc(label, rows * row)?, first_row, rows });
        }
        Ok(Weight { ty, rows, cols, slabs })
    }

    /// Uploads a matrix from the bytes of a GGUF tensor.
    pub fn upload(dev: &Device, label: &str, ty: GgmlType, rows: usize, cols: usize, bytes: &[u8]) -> Result<Weight> {
        let weight = Weight::zeroed(dev, label, ty, rows, cols)?;
        let row = weight.file_row_bytes();
        ensure!(
            bytes.len() == rows * row,
            "tensor `{label}` has {} bytes, {} expected for [{rows}, {cols}] in {ty}",
            bytes.len(),
            rows * row
        );
        for slab in &weight.slabs {
            let part = &bytes[slab.first_row * row..(slab.first_row + slab.rows) * row];
            match is_padded(dev, ty) {
                true => dev.write(&slab.buffer, 0, &pad_blocks(ty, part))?,
                false => dev.write(&slab.buffer, 0, part)?,
            }
        }
        Ok(weight)
    }

    /// The matrix as the bytes of a GGUF tensor.
    pub fn download(&self, dev: &Device) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.rows * self.file_row_bytes());
        for slab in &self.slabs {
            let part = dev.read_range::<u8>(&slab.buffer, 0, slab.rows * row_bytes(dev, self.ty, self.cols))?;
            match is_padded(dev, self.ty) {
                true => bytes.extend_from_slice(&strip_blocks(self.ty, &part)),
                false => bytes.extend_from_slice(&part),
            }
        }
        Ok(bytes)
    }

    /// The slabs, in the order of their rows.
    pub fn slabs(&self) -> &[Slab] {
        &self.slabs
    }

    /// The parts of slabs that hold these rows: a slab, the rows within it, and the place of the first in `rows`.
    pub fn parts(&self, rows: Range<usize>) -> impl Iterator<Item = (&Slab, Range<usize>, usize)> {
        self.slabs.iter().filter_map(move |slab| {
            let first = rows.start.max(slab.first_row);
            let end = rows.end.min(slab.first_row + slab.rows);
            (first < end).then(|| (slab, first - slab.first_row..end - slab.first_row, first - rows.start))
        })
    }

    /// Bytes of a row in a GGUF.
    pub fn file_row_bytes(&self) -> usize {
        self.cols / self.ty.block_len() * self.ty.block_bytes()
    }
}

/// Bytes of a row on this device.
pub fn row_bytes(dev: &Device, ty: GgmlType, cols: usize) -> usize {
    let block = if dev.is_gpu() { device_block_bytes(ty) } else { ty.block_bytes() };
    cols / ty.block_len() * block
}

fn is_padded(dev: &Device, ty: GgmlType) -> bool {
    dev.is_gpu() && device_block_bytes(ty) != ty.block_bytes()
}

/// Decodes whole rows on the CPU, in this thread.
pub(crate) fn decode_rows(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    match ty {
        GgmlType::F32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
        // Not through `half`, which looks for NaN: this loop is a shift and vectorizes.
        GgmlType::BF16 => {
            for (out, pair) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
            }
        }
        GgmlType::F16 => {
            use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
            let bits: &[u16] = bytemuck::cast_slice(bytes);
            bits.reinterpret_cast::<half::f16>().convert_to_f32_slice(out);
        }
        _ => {
            let format = quant::format(ty).with_context(|| format!("this tensor type cannot be read: `{ty}`"))?;
            format.decode_rows(bytes, out);
        }
    }
    Ok(())
}
