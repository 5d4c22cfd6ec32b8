//! H = E[x x^T] of every distinct input of a layer, gathered while tokens stream; one layer's at a time.
//! Behind quantized layers also how far the input has moved from the original's.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Context, Result};

use super::drift::{Drift, DriftSums, Moved};
use crate::device::{Buffer, Device};
use crate::forward::lanes::{LaneInputs, LaneTap};
use crate::graph::{LinearInput, Matrix, Tap};
use crate::kernels::gram::{Columns, cross_gram, gram};
use crate::kernels::weight::Weight;
use crate::quant::GgmlType;

/// Bytes that factoring H and rounding with it take per element of H, on the host and on the device.
const BYTES_PER_ELEMENT: usize = 64;

/// Columns of a panel are a multiple of the largest block.
const PANEL_UNIT: usize = 256;

/// A sum of x y^T on the device.
pub struct Moments {
    pub tokens: usize,
    /// `[columns of x, columns of y]` f32.
    sum: Buffer,
}

impl Moments {
    /// Nothing summed yet.
    pub fn zeroed(device: &Device, rows: usize, cols: usize) -> Result<Self> {
        Ok(Moments { tokens: 0, sum: device.alloc("second moments", rows * cols * size_of::<f32>())? })
    }

    /// Adds x x^T of some tokens.
    pub fn add(&mut self, device: &Device, x: &Columns, tokens: usize) -> Result<()> {
        self.tokens += tokens;
        gram(device, x, &self.sum, tokens)
    }

    /// Adds x y^T of some tokens.
    pub fn add_product(&mut self, device: &Device, x: &Columns, y: &Columns, tokens: usize) -> Result<()> {
        self.tokens += tokens;
        cross_gram(device, x, y, &self.sum, tokens)
    }

    /// E[x y^T] over the tokens of all `parts`, row-major.
    pub fn mean(device: &Device, parts: &[&Moments]) -> Result<Vec<f32>> {
        let tokens: usize = parts.iter().map(|part| part.tokens).sum();
        let scale = 1.0 / tokens.max(1) as f32;
        let mut parts = parts.iter().filter(|part| part.tokens > 0 || tokens == 0);
        let mut values = device.read::<f32>(&parts.next().context("moments of nothing")?.sum)?;
        for part in parts {
            let other = device.read::<f32>(&part.sum)?;
            values.iter_mut().zip(other).for_each(|(value, other)| *value += other);
        }
        values.iter_mut().for_each(|value| *value *= scale);
        Ok(values)
    }
}

/// H with a share of what it says of pairs of columns left out: other kinds of text have other correlations.
pub fn shrunk(mut h: Vec<f32>, share: f32) -> Vec<f32> {
    let width = h.len().isqrt();
    for (i, row) in h.chunks_exact_mut(width.max(1)).enumerate() {
        let diagonal = row[i];
        row.iter_mut().for_each(|value| *value *= 1.0 - share);
        row[i] = diagonal;
    }
    h
}

/// What is summed of some columns of an input.
pub struct Sums {
    h: Moments,
    drift: Option<DriftSums>,
}

impl Sums {
    /// `x` and what it has moved by are of one text.
    fn add(&mut self, device: &Device, x: &Columns, moved: Option<&Moved>, tokens: usize) -> Result<()> {
        self.h.add(device, x, tokens)?;
        match (&mut self.drift, moved) {
            (Some(drift), Some(moved)) => drift.add(device, x, moved, tokens),
            _ => Ok(()),
        }
    }
}

/// Columns of an input whose errors are seen together: all of them unless H is too large for the memory.
pub struct Panel {
    pub cols: Range<usize>,
    fit: Sums,
    held_out: Option<Sums>,
    holds_domain: bool,
}

/// Some of the texts that an input was gathered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// Those to which what is judged may fit.
    Fit,
    /// Those on which it is judged: all of them where none are held out.
    HeldOut,
    All,
}

impl Panel {
    fn sums(&self, texts: Texts) -> Vec<&Sums> {
        let held_out = self.held_out.as_ref().filter(|sums| sums.h.tokens > 0);
        match (texts, held_out) {
            // no token of the others was sent to the expert
            (_, Some(held_out)) if self.fit.h.tokens == 0 => vec![held_out],
            (Texts::HeldOut, Some(held_out)) => vec![held_out],
            (Texts::All, Some(held_out)) => vec![&self.fit, held_out],
            _ => vec![&self.fit],
        }
    }

    /// Whether there are texts to judge by that others do not see.
    pub fn is_split(&self) -> bool {
        self.sums(Texts::All).len() > 1
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.sums(Texts::All).iter().map(|sums| sums.h.tokens).sum()
    }

    /// Whether they are all of their domain.
    pub fn holds_domain(&self) -> bool {
        self.holds_domain
    }

    /// E[x x^T] of the columns.
    pub fn h(&self, device: &Device, texts: Texts) -> Result<Vec<f32>> {
        Moments::mean(device, &self.sums(texts).into_iter().map(|sums| &sums.h).collect::<Vec<_>>())
    }

    /// The same as a matrix on the device.
    pub fn matrix(&self, device: &Device, texts: Texts) -> Result<Weight> {
        matrix(device, &self.h(device, texts)?, self.cols.len())
    }

    /// How far the input has moved, where that is known.
    pub fn drift(&self, device: &Device, texts: Texts) -> Result<Option<Drift>> {
        let sums: Option<Vec<&DriftSums>> = self.sums(texts).into_iter().map(|sums| sums.drift.as_ref()).collect();
        sums.map(|sums| DriftSums::mean(device, &sums)).transpose()
    }
}

/// Which texts are held out, to judge what rounding fits to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldOut {
    Nothing,
    /// One text in so many.
    OneIn(usize),
    /// All texts of one domain, another for each input. Domains by text.
    Domain {
        of_text: Vec<u16>,
        count: usize,
    },
}

/// Fewer domains tell nothing of others.
const FEWEST_DOMAINS: usize = 3;

impl HeldOut {
    /// One of the `domains` that texts have, where there are enough of them; else one text in `every`, if there are several.
    pub fn of(domains: &[u16], every: usize) -> HeldOut {
        let known: BTreeSet<u16> = domains.iter().copied().collect();
        let place = |domain: &u16| known.range(..domain).count() as u16;
        match (known.len(), every.min(domains.len())) {
            (FEWEST_DOMAINS.., _) => {
                HeldOut::Domain { of_text: domains.iter().map(place).collect(), count: known.len() }
            }
            (_, 0 | 1) => HeldOut::Nothing,
            (_, every) => HeldOut::OneIn(every),
        }
    }

    /// Whether text `index` judges what is rounded for the input of `matrices`.
    fn holds(&self, index: usize, matrices: &[Matrix]) -> bool {
        match self {
            HeldOut::Nothing => false,
            HeldOut::OneIn(every) => (index + 1).is_multiple_of(*every),
            HeldOut::Domain { of_text, count } => {
                // names differ by number and kind, so neighbours take turns; and a name gives the same domain in every run
                let number = |matrix: &Matrix| matrix.index + matrix.tensor.bytes().map(usize::from).sum::<usize>();
                let name = matrices.first().map_or(0, number);
                of_text.get(index).is_some_and(|domain| usize::from(*domain) == name % count)
            }
        }
    }
}

/// A matrix of some rows of `cols` columns on the device.
pub fn matrix(device: &Device, values: &[f32], cols: usize) -> Result<Weight> {
    let bytes = bytemuck::cast_slice(values);
    Weight::upload(device, "second moments", GgmlType::F32, values.len() / cols, cols, bytes)
}

/// The second moments of one input.
pub struct Hessian {
    /// What reads this input.
    pub matrices: Vec<Matrix>,
    pub width: usize,
    pub panels: Vec<Panel>,
}

/// The columns of an input of `width` in panels whose second moments fit a binding and `memory` bytes.
pub fn panels(device: &Device, width: usize, memory: usize) -> Vec<Range<usize>> {
    let fitting = (device.max_binding_bytes() / size_of::<f32>()).min(memory / BYTES_PER_ELEMENT).isqrt();
    let count = width.div_ceil(fitting.max(1));
    // never narrower than the largest block
    let step = width.div_ceil(count).next_multiple_of(PANEL_UNIT);
    let step = if step > fitting { (fitting - fitting % PANEL_UNIT).max(PANEL_UNIT) } else { step };
    let step = if count == 1 { width } else { step };
    (0..width).step_by(step).map(|first| first..(first + step).min(width)).collect()
}

/// Whether the second moments of an input of this width fit the device.
pub fn fits(device: &Device, width: usize) -> bool {
    width * width * size_of::<f32>() <= device.max_binding_bytes()
}

/// The rows of x `[.., width]` that are one text. Sums over each, added in their order, do not depend on how many pass a layer
/// together: one bit in H would change all codes that follow.
pub fn text(device: &Device, x: &Buffer, width: usize, rows: Range<usize>) -> Result<Buffer> {
    if rows.start == 0 {
        return Ok(x.clone());
    }
    let row = width * size_of::<f32>();
    let part = device.alloc("a text", rows.len() * row)?;
    device.copy(x, rows.start * row, &part, 0, rows.len() * row)?;
    Ok(part)
}

/// A tap that gathers the [`Hessian`]s of each layer. Experts have one each while there is room for all of them; else those that read
/// the same states share one, and the others have none.
pub struct HessianTap<'a> {
    device: &'a Device,
    held_out: HeldOut,
    /// Bytes for one H and what is made of it.
    memory: usize,
    gathered: Vec<Hessian>,
}

impl<'a> HessianTap<'a> {
    pub fn new(device: &'a Device, held_out: HeldOut, memory: usize) -> Self {
        HessianTap { device, held_out, memory, gathered: Vec::new() }
    }

    /// What the layer that has just passed gave; the next layer starts anew.
    pub fn take(&mut self) -> Vec<Hessian> {
        std::mem::take(&mut self.gathered)
    }

    /// The place of an input; none if its second moments are not gathered. `drift` is the width of what its output is added to, if
    /// drift is gathered.
    fn place(&mut self, input: &LinearInput, drift: Option<usize>) -> Result<Option<usize>> {
        let LinearInput { matrices, width, .. } = *input;
        let known = match input.experts.filter(|experts| !self.fit_together(width, experts.count)) {
            None => self.gathered.iter().position(|hessian| hessian.matrices == matrices),
            // what one expert reads says nothing of what another does
            Some(experts) if !experts.is_shared => return Ok(None),
            Some(_) => {
                let tensor = &matrices[0].tensor;
                self.gathered.iter().position(|hessian| hessian.matrices[0].tensor == *tensor)
            }
        };
        if let Some(place) = known {
            let known = &mut self.gathered[place].matrices;
            let new: Vec<Matrix> = matrices.iter().filter(|matrix| !known.contains(matrix)).cloned().collect();
            known.extend(new);
            return Ok(Some(place));
        }
        let ranges = panels(self.device, width, self.memory).into_iter();
        let panels = ranges.map(|cols| self.panel(cols, drift)).collect::<Result<Vec<_>>>()?;
        self.gathered.push(Hessian { matrices: matrices.to_vec(), width, panels });
        Ok(Some(self.gathered.len() - 1))
    }

    /// Whether the memory has room for the second moments of each of `count` inputs.
    fn fit_together(&self, width: usize, count: usize) -> bool {
        let parts = if self.held_out == HeldOut::Nothing { 1 } else { 2 };
        parts * count * width * width * size_of::<f32>() <= self.memory
    }

    fn panel(&self, cols: Range<usize>, drift: Option<usize>) -> Result<Panel> {
        let sums = || -> Result<Sums> {
            let drift = drift.map(|residual| DriftSums::zeroed(self.device, cols.len(), residual)).transpose()?;
            Ok(Sums { h: Moments::zeroed(self.device, cols.len(), cols.len())?, drift })
        };
        let is_split = self.held_out != HeldOut::Nothing;
        let holds_domain = matches!(self.held_out, HeldOut::Domain { .. });
        Ok(Panel { fit: sums()?, held_out: is_split.then(sums).transpose()?, holds_domain, cols })
    }
}

impl Hessian {
    /// Adds one text, number `index` of all.
    fn add(
        &mut self,
        device: &Device,
        (index, x): (usize, &Buffer),
        moved: Option<&Moved>,
        tokens: usize,
        held_out: &HeldOut,
    ) -> Result<()> {
        let is_held_out = held_out.holds(index, &self.matrices);
        for panel in &mut self.panels {
            let sums = match &mut panel.held_out {
                Some(sums) if is_held_out => sums,
                _ => &mut panel.fit,
            };
            let x = Columns { matrix: x, width: self.width, range: panel.cols.clone() };
            sums.add(device, &x, moved, tokens)?;
        }
        Ok(())
    }
}

impl Tap for HessianTap<'_> {
    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        let Some(place) = self.place(input, None)? else { return Ok(()) };
        for (index, rows) in input.text_rows() {
            let (x, tokens) = (text(self.device, input.x, input.width, rows.clone())?, rows.len());
            self.gathered[place].add(self.device, (index, &x), None, tokens, &self.held_out)?;
        }
        Ok(())
    }
}

impl LaneTap for HessianTap<'_> {
    fn linear_inputs(&mut self, inputs: &LaneInputs) -> Result<()> {
        let LinearInput { x, width, .. } = inputs.quantized;
        let Some(original) = inputs.original else { return self.linear_input(&inputs.quantized) };
        let Some(place) = self.place(&inputs.quantized, Some(inputs.residual_width()))? else { return Ok(()) };
        for (index, rows) in inputs.quantized.text_rows() {
            let (x, tokens) = (text(self.device, x, width, rows.clone())?, rows.len());
            let moved = Moved::of_text(self.device, inputs, [original, &x], rows)?;
            self.gathered[place].add(self.device, (index, &x), Some(&moved), tokens, &self.held_out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_fit_the_memory_and_begin_with_blocks() {
        let device = Device::cpu();
        assert_eq!(panels(&device, 4096, 4 << 30), vec![0..4096]);
        assert_eq!(panels(&device, 80, 1 << 30), vec![0..80]);
        for (width, memory) in [(14336, 4usize << 30), (28672, 1 << 30), (2880, 100 << 20), (1000, 1 << 20)] {
            let panels = panels(&device, width, memory);
            assert!(panels.len() > 1);
            assert_eq!((panels[0].start, panels[panels.len() - 1].end), (0, width));
            assert!(panels.windows(2).all(|pair| pair[0].end == pair[1].start));
            for panel in panels {
                assert!(panel.start.is_multiple_of(PANEL_UNIT));
                assert!(panel.len() <= PANEL_UNIT || panel.len().pow(2) * BYTES_PER_ELEMENT <= memory);
            }
        }
    }
}
