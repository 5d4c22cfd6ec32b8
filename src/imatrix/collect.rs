//! Collects activation statistics while calibration tokens stream through the model.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::{Entry, Imatrix};
use crate::device::{Buffer, Device};
use crate::graph::{LinearInput, Matrix, Tap};
use crate::kernels::column_moments::column_moments;

/// Sums that wait on the device before they are read; bounds their memory.
const PENDING_SUMS: usize = 256;

/// A tap that gathers the sums of x^2 and x of every linear input: f32 within a batch on the device, f64 across batches.
pub struct Collector<'a> {
    device: &'a Device,
    entries: BTreeMap<String, Entry>,
    pending: Vec<Pending>,
}

struct Pending {
    matrices: Vec<Matrix>,
    sums: Buffer,
    tokens: usize,
}

impl<'a> Collector<'a> {
    pub fn new(device: &'a Device) -> Self {
        Collector { device, entries: BTreeMap::new(), pending: Vec::new() }
    }

    fn read_pending(&mut self) -> Result<()> {
        for Pending { matrices, sums, tokens } in self.pending.drain(..) {
            let sums = self.device.read::<f32>(&sums)?;
            let (squares, values) = sums.split_at(sums.len() / 2);
            ensure!(
                sums.iter().all(|sum| sum.is_finite()),
                "activations overflow at the input of `{}`: the model is broken or its weights are damaged",
                matrices[0]
            );
            for Matrix { tensor, index } in matrices {
                let entry = self.entries.entry(tensor).or_default();
                let columns = index * squares.len()..(index + 1) * squares.len();
                add(&mut grown(&mut entry.sum2, columns.end)[columns.clone()], squares);
                add(&mut grown(entry.sum.get_or_insert_default(), columns.end)[columns], values);
                grown(&mut entry.counts, index + 1)[index] += tokens as f64;
            }
        }
        Ok(())
    }

    /// The statistics gathered so far, as an importance matrix of `chunks` chunks of `ctx` tokens of `dataset`.
    pub fn finish(mut self, dataset: &str, chunks: usize, ctx: usize) -> Result<Imatrix> {
        self.read_pending()?;
        Ok(Imatrix {
            entries: self.entries,
            datasets: vec![dataset.to_string()],
            chunk_count: chunks as u32,
            chunk_size: ctx as u32,
            extra: Vec::new(),
        })
    }
}

/// At least `len` sums: matrices of a stack come one by one.
fn grown(sums: &mut Vec<f64>, len: usize) -> &mut [f64] {
    sums.resize(sums.len().max(len), 0.0);
    sums
}

fn add(total: &mut [f64], part: &[f32]) {
    total.iter_mut().zip(part).for_each(|(total, part)| *total += f64::from(*part));
}

impl Tap for Collector<'_> {
    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        let (width, tokens) = (input.width, input.tokens());
        let sums = self.device.alloc("activation sums", 2 * width * size_of::<f32>())?;
        if tokens > 0 {
            column_moments(self.device, input.x, &sums, tokens, width)?;
        }
        self.pending.push(Pending { matrices: input.matrices.to_vec(), sums, tokens });
        if self.pending.len() >= PENDING_SUMS { self.read_pending() } else { Ok(()) }
    }

    fn layer_done(&mut self) -> Result<()> {
        self.read_pending()
    }
}
