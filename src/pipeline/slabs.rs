//! The rows of a tensor in pieces that are worked on at once, each of one matrix.

use std::ops::Range;

use crate::source::Tensor;

/// Bytes of f32 weights in a piece, at most.
const SLAB_BYTES: usize = 32 << 20;

/// All rows.
pub(super) fn slabs(tensor: &Tensor) -> impl Iterator<Item = Range<usize>> + '_ {
    tensor.by_matrix(0..tensor.rows).flat_map(|rows| slabs_of(tensor, rows))
}

/// Some rows of one matrix.
pub(super) fn slabs_of(tensor: &Tensor, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let step = (SLAB_BYTES / (tensor.cols * size_of::<f32>())).max(1);
    let end = rows.end;
    rows.step_by(step).map(move |first| first..(first + step).min(end))
}

/// The part of `values` `[matrices, cols]` that is of the matrix of these rows.
pub(super) fn of_matrix<'a>(tensor: &Tensor, values: &'a [f32], rows: &Range<usize>) -> &'a [f32] {
    &values[tensor.matrix_at(rows.start) * tensor.cols..][..tensor.cols]
}
