//! The `gemm` crate behind matrices that know their bounds.

/// A matrix that is read: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Rows of `stride` elements.
    pub(crate) fn rows(data: &'a [f32], stride: usize) -> Mat<'a> {
        Mat { data, row_stride: stride, col_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Mat<'a> {
        Mat { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row_stride + (cols - 1) * self.col_stride < self.data.len()
    }
}

/// Which threads a product may use.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Threads {
    One,
    All,
}

/// `c [m, n]` = `a [m, k]` `b [k, n]`, plus c itself if `add`; c has rows of `c_stride` elements.
///
/// # Safety
/// `c` points to `(m - 1) * c_stride + n` elements; no one else touches the `m` x `n` of them that are written.
pub(crate) unsafe fn multiply_into(
    c: *mut f32,
    c_stride: usize,
    [m, n, k]: [usize; 3],
    a: Mat,
    b: Mat,
    add: bool,
    threads: Threads,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.holds(m, k) && b.holds(k, n), "gemm [{m}, {n}, {k}] reads beyond its inputs");
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: a and b hold their matrices (checked above); c is the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            c_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The same into a slice.
pub(crate) fn multiply(c: &mut [f32], c_stride: usize, shape: [usize; 3], a: Mat, b: Mat, add: bool, threads: Threads) {
    let [m, n, _] = shape;
    assert!(m == 0 || n == 0 || (m - 1) * c_stride + n <= c.len(), "gemm writes beyond its output");
    // SAFETY: c holds the result (checked above) and is borrowed for writing.
    unsafe { multiply_into(c.as_mut_ptr(), c_stride, shape, a, b, add, threads) }
}
