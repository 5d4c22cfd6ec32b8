//! Rows rounded from the first search to the last descent, each task with rows of its own: what `kernels` do on a GPU block
//! after block for all rows of a matrix. Rows are independent, so no task waits for another until all are done.
//!
//! Sixteen rows run side by side as in [`super::recode`], and stay in lanes from one block to the next.

use bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::codebook::nearest::{get, registers, set};
use super::lanes::{LANES, Lanes, ZERO};
use super::recode::{Recoder, Tile, Within, load, recoder, store};
use super::{Format, GgmlType, format};

/// Most sixteens of rows of a task: the more, the less often couplings are loaded.
const GROUPS: usize = 4;
/// Tasks of each thread at least, so that none is left waiting for long.
const TASKS: usize = 4;
/// Targets that are summed side by side.
const PANEL: usize = 8;
/// Most products that are summed before the sum is added to a target: long sums would lose low bits.
const DEPTH: usize = 512;

/// What a unit of error in each column adds to the target of each, `[width / 8, width, 8]`: targets eight by eight.
pub struct Panels {
    width: usize,
    values: Vec<f32>,
}

impl Panels {
    /// Row j of `to_target` `[width, width]` is what errors add to the target of column j.
    pub fn new(to_target: &[f32], width: usize) -> Self {
        let mut values = vec![0.0; width * width];
        let panels = values.par_chunks_exact_mut(PANEL * width).zip(to_target.par_chunks_exact(PANEL * width));
        panels.for_each(|(panel, rows)| {
            for (n, row) in rows.chunks_exact(width).enumerate() {
                panel.iter_mut().skip(n).step_by(PANEL).zip(row).for_each(|(value, x)| *value = *x);
            }
        });
        Panels { width, values }
    }
}

/// How errors move the targets when all columns are rounded once.
pub struct Pass<'a> {
    pub panels: &'a Panels,
    /// Of each block of columns.
    pub within: Vec<Within<'a>>,
}

/// How rows of `width` columns are rounded.
pub struct RoundRows<'a> {
    pub ty: GgmlType,
    pub width: usize,
    /// `[width]`: weights of the columns where scales are searched.
    pub importance: &'a [f32],
    /// The first pass: scales are searched for targets. Without it every block is encoded for itself.
    pub feedback: Option<Pass<'a>>,
    /// The passes after it, and how many.
    pub descent: Option<(Pass<'a>, usize)>,
}

impl RoundRows<'_> {
    /// The rows `values` as the bytes of a GGUF tensor; they depend neither on threads nor on other rows. What is not finite counts
    /// as zero.
    ///
    /// # Panics
    /// If the type has no blocks or does not fit the width.
    pub fn round(&self, values: &[f32]) -> Vec<u8> {
        let rows = values.len() / self.width;
        let row_bytes = self.width / self.ty.block_len() * self.ty.block_bytes();
        let mut bytes = vec![0; rows * row_bytes];
        let fair = rows.div_ceil(LANES) / (TASKS * rayon::current_num_threads());
        let task = LANES * fair.clamp(1, GROUPS);
        let tasks = values.par_chunks(task * self.width).zip(bytes.par_chunks_mut(task * row_bytes));
        tasks.with_max_len(1).for_each(|(values, bytes)| self.round_task(values, bytes));
        bytes
    }

    fn round_task(&self, values: &[f32], bytes: &mut [u8]) {
        let (block, block_bytes) = (self.ty.block_len(), self.ty.block_bytes());
        let format = format(self.ty).expect("the caller asks for block formats only");
        let recoder = recoder(self.ty).expect("the caller asks for block formats only");
        let mut groups: Vec<Group> =
            values.chunks(LANES * self.width).map(|rows| Group::load(rows, self.width, self.ty)).collect();
        match &self.feedback {
            Some(pass) => {
                for at in 0..pass.within.len() {
                    // the errors of later columns are zero so far
                    pass.targets(&mut groups, at * block..(at + 1) * block, at * block);
                    for group in &mut groups {
                        group.search(format, at, &self.importance[at * block..(at + 1) * block]);
                        group.recode(recoder, at, pass.within[at]);
                    }
                }
            }
            None => groups.iter_mut().for_each(|group| group.search_all(format, self.importance)),
        }
        if let Some((pass, times)) = &self.descent {
            for at in (0..*times).flat_map(|_| 0..pass.within.len()) {
                pass.targets(&mut groups, at * block..(at + 1) * block, self.width);
                groups.iter_mut().for_each(|group| group.recode(recoder, at, pass.within[at]));
            }
        }
        let parts = bytes.chunks_mut(LANES * self.width / block * block_bytes);
        groups.iter().zip(parts).for_each(|(group, bytes)| group.store(bytes));
    }
}

impl Pass<'_> {
    /// Sets the targets of `columns`: the weights, and what the errors of the first `known` columns add to them.
    fn targets(&self, groups: &mut [Group], columns: std::ops::Range<usize>, known: usize) {
        let width = self.panels.width;
        for group in &mut *groups {
            group.targets.copy_from_slice(&group.weights[columns.clone()]);
        }
        let panels = &self.panels.values[columns.start * width..columns.end * width];
        Arch::new().dispatch(AddProducts { panels, width, known, groups });
    }
}

struct AddProducts<'a, 'b> {
    /// Those of the groups' targets.
    panels: &'a [f32],
    width: usize,
    known: usize,
    groups: &'b mut [Group],
}

impl WithSimd for AddProducts<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // of the whole width, so that sums are split the same way however many columns are known
        let depth = self.width.div_ceil(self.width.div_ceil(DEPTH));
        for (at, panel) in self.panels.as_chunks::<PANEL>().0.chunks_exact(self.width).enumerate() {
            for start in (0..self.known).step_by(depth) {
                let columns = start..self.known.min(start + depth);
                for group in &mut *self.groups {
                    let targets = &mut group.targets[at * PANEL..][..PANEL];
                    for r in 0..registers::<S>() {
                        let mut sums = [simd.splat_f32s(0.0); PANEL];
                        for (errors, panel) in group.errors[columns.clone()].iter().zip(&panel[columns.clone()]) {
                            let error = get::<S>(&errors.0, r);
                            for n in 0..PANEL {
                                sums[n] = simd.mul_add_f32s(error, simd.splat_f32s(panel[n]), sums[n]);
                            }
                        }
                        for (target, sum) in targets.iter_mut().zip(sums) {
                            let target = &mut target.0;
                            let value = simd.add_f32s(get::<S>(target, r), sum);
                            set::<S>(target, r, value);
                        }
                    }
                }
            }
        }
    }
}

/// A column of sixteen rows, on a cache line of its own.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Column(Lanes);

fn lanes(columns: &[Column]) -> &[Lanes] {
    bytemuck::cast_slice(columns)
}

fn lanes_mut(columns: &mut [Column]) -> &mut [Lanes] {
    bytemuck::cast_slice_mut(columns)
}

/// Up to sixteen rows on their way.
struct Group {
    rows: usize,
    block: usize,
    weights: Vec<Column>,
    /// Weights less decoded values, zero where nothing is encoded yet.
    errors: Vec<Column>,
    /// Of the block that is rounded now.
    targets: Vec<Column>,
    /// The blocks of the first columns of all rows, then those of the next.
    blocks: Vec<u8>,
    /// Bytes of the blocks of the same columns.
    step: usize,
}

impl Group {
    fn load(values: &[f32], width: usize, ty: GgmlType) -> Self {
        let (rows, block) = (values.len() / width, ty.block_len());
        let column = Column(ZERO);
        let mut weights = vec![column; width];
        load(lanes_mut(&mut weights), values, width, 0);
        let all = lanes_mut(&mut weights).as_flattened_mut();
        all.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        let step = rows * ty.block_bytes();
        let blocks = vec![0; width / block * step];
        Group { rows, block, weights, errors: vec![column; width], targets: vec![column; block], blocks, step }
    }

    /// Encodes the targets of block `at` of the columns.
    fn search(&mut self, format: &dyn Format, at: usize, importance: &[f32]) {
        let mut values = vec![0.0; self.rows * self.block];
        store(lanes(&self.targets), &mut values, self.block, 0);
        format.encode_rows(&values, importance, &mut self.blocks[at * self.step..][..self.step]);
    }

    /// Encodes the weights of all columns.
    fn search_all(&mut self, format: &dyn Format, importance: &[f32]) {
        let mut values = vec![0.0; self.rows * importance.len()];
        store(lanes(&self.weights), &mut values, importance.len(), 0);
        let mut bytes = vec![0; self.blocks.len()];
        format.encode_rows(&values, importance, &mut bytes);
        let mut decoded = vec![0.0; values.len()];
        format.decode_rows(&bytes, &mut decoded);
        values.iter_mut().zip(decoded).for_each(|(value, decoded)| *value -= decoded);
        load(lanes_mut(&mut self.errors), &values, importance.len(), 0);
        let block = self.step / self.rows;
        for (row, bytes) in bytes.chunks_exact(self.blocks.len() / self.rows).enumerate() {
            for (to, from) in self.blocks.chunks_exact_mut(self.step).zip(bytes.chunks_exact(block)) {
                to[row * block..][..block].copy_from_slice(from);
            }
        }
    }

    fn recode(&mut self, recoder: &dyn Recoder, at: usize, within: Within) {
        let columns = at * self.block..(at + 1) * self.block;
        recoder.recode(Tile {
            target: lanes_mut(&mut self.targets),
            weight: lanes(&self.weights[columns.clone()]),
            error: lanes_mut(&mut self.errors[columns]),
            within,
            bytes: &mut self.blocks[at * self.step..][..self.step],
        });
    }

    /// Writes the blocks row after row.
    fn store(&self, bytes: &mut [u8]) {
        let block = self.step / self.rows;
        for (row, bytes) in bytes.chunks_exact_mut(self.blocks.len() / self.rows).enumerate() {
            for (to, from) in bytes.chunks_exact_mut(block).zip(self.blocks.chunks_exact(self.step)) {
                to.copy_from_slice(&from[row * block..][..block]);
            }
        }
    }
}
