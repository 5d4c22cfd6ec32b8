//! Rows of a tensor whose source has them in another order, or as columns.

use std::ops::Range;

use anyhow::Result;

use crate::arch::Transform;
use crate::quant::GgmlType;

/// A tensor and where it comes from.
pub(super) struct Rearranged<'a> {
    pub(super) transform: Transform,
    /// Of the tensor, columns first.
    pub(super) dims: &'a [u64],
    /// Of the source.
    pub(super) ty: GgmlType,
    /// Bytes of the source.
    pub(super) read: &'a dyn Fn(Range<usize>) -> Result<Vec<u8>>,
}

impl Rearranged<'_> {
    /// Some rows of the tensor in the type of the source.
    pub(super) fn rows(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let cols = self.dims.first().map_or(1, |&cols| cols as usize);
        let row_bytes = self.bytes(cols);
        match self.transform {
            _ if rows.is_empty() => Ok(Vec::new()),
            Transform::None | Transform::AddOne | Transform::Squeezed | Transform::MinusExp => {
                (self.read)(rows.start * row_bytes..rows.end * row_bytes)
            }
            // a bias has an element where a matrix has a row
            Transform::PairRows { heads } if self.dims.len() <= 1 => self.paired(0..cols, 1, cols / heads),
            Transform::PairRows { heads } => self.paired(rows, cols, self.dims[1] as usize / heads),
            Transform::CutRows { period, first, count } => {
                let source = |row: usize| row / count * period + first + row % count;
                self.gathered(rows.clone(), source(rows.start)..source(rows.end - 1) + 1, row_bytes, source)
            }
            Transform::SortedRows { period, counts } => {
                let groups = self.dims[1] as usize / counts.iter().sum::<usize>();
                let sources: Vec<usize> = rows.clone().map(|row| sorted_source(row, groups, period, counts)).collect();
                let (Some(least), Some(most)) = (sources.iter().min(), sources.iter().max()) else {
                    return Ok(Vec::new());
                };
                self.gathered(rows.clone(), *least..*most + 1, row_bytes, |row| sources[row - rows.start])
            }
            Transform::Transposed { step, first, period } => self.transposed(rows, cols, (step, first), period),
            Transform::EachColumn { step, first } => {
                let bytes = (self.read)(rows.start * step * row_bytes..rows.end * step * row_bytes)?;
                let element = self.bytes(1);
                let groups = bytes.chunks_exact(step * element);
                Ok(groups.flat_map(|group| &group[first * element..][..element]).copied().collect())
            }
        }
    }

    /// Bytes of so many elements.
    fn bytes(&self, elements: usize) -> usize {
        self.ty.bytes_for(elements as u64) as usize
    }

    /// Units of `unit_len` elements: in each head of so many units those of the two halves take turns.
    fn paired(&self, units: Range<usize>, unit_len: usize, head: usize) -> Result<Vec<u8>> {
        let span = units.start / head * head..units.end.next_multiple_of(head);
        let source = |unit: usize| {
            let inside = unit % head;
            unit - inside + (inside % 2) * (head / 2) + inside / 2
        };
        self.gathered(units, span, self.bytes(unit_len), source)
    }

    /// Units by their place in the source, which is in `span`.
    fn gathered(
        &self,
        units: Range<usize>,
        span: Range<usize>,
        unit_bytes: usize,
        source: impl Fn(usize) -> usize,
    ) -> Result<Vec<u8>> {
        let bytes = (self.read)(span.start * unit_bytes..span.end * unit_bytes)?;
        let mut moved = Vec::with_capacity(units.len() * unit_bytes);
        for unit in units {
            moved.extend_from_slice(&bytes[(source(unit) - span.start) * unit_bytes..][..unit_bytes]);
        }
        Ok(moved)
    }

    /// Rows that are columns of the source's matrices, one of which is read at a time.
    fn transposed(
        &self,
        rows: Range<usize>,
        cols: usize,
        (step, first): (usize, usize),
        period: usize,
    ) -> Result<Vec<u8>> {
        let of_each = self.dims[1] as usize;
        let (element, source_row) = (self.bytes(1), self.bytes(of_each * step));
        let mut moved = Vec::with_capacity(rows.len() * cols * element);
        for matrix in rows.start / of_each..rows.end.div_ceil(of_each) {
            let start = matrix * period * source_row;
            let bytes = (self.read)(start..start + cols * source_row)?;
            let of_matrix = rows.start.max(matrix * of_each)..rows.end.min((matrix + 1) * of_each);
            for row in of_matrix {
                let at = (row % of_each * step + first) * element;
                bytes.chunks_exact(source_row).for_each(|source| moved.extend_from_slice(&source[at..][..element]));
            }
        }
        Ok(moved)
    }
}

/// The row of the source that [`Transform::SortedRows`] puts at `row`, out of so many groups.
fn sorted_source(mut row: usize, groups: usize, period: usize, counts: [usize; 3]) -> usize {
    let mut first = 0;
    for count in counts {
        if row < groups * count {
            return row / count * period + first + row % count;
        }
        row -= groups * count;
        first += count;
    }
    unreachable!("a row behind the last")
}
