//! How the error of one column can be made good by others: what the second moments H say about a row's error
//! `e H e^T`, e = weights less decoded values.
//!
//! With H = (I + A) D (I + A)^T, A strictly upper triangular, that is `sum_j D_j (e_j + sum_{i<j} e_i A_ij)^2`: rounding column
//! after column to the target `w_j + sum_{i<j} e_i A_ij` makes each term small (LDLQ, which is GPTQ). Once all columns are
//! rounded, `w_j + sum_{i!=j} e_i H_ij / H_jj` is the best value of one column given all others (coordinate descent).
//! For codewords of several columns the same holds by blocks of that many.

use std::ops::Range;

use anyhow::{Context, Result};
use faer::linalg::triangular_inverse::invert_upper_triangular;
use faer::{Mat, Side};
use rayon::prelude::*;

use crate::kernels::gemm;
use crate::quant::recode::Within;

/// Second moments of an input, damped, and their factor R: H = R R^T, R upper triangular.
pub struct Factored {
    pub width: usize,
    /// `[width, width]`, damped.
    h: Vec<f32>,
    /// `[width, width]`, upper triangular.
    r: Vec<f32>,
}

/// What an error in one column adds to the targets of others, for units of `unit` columns.
pub struct Coupling {
    pub width: usize,
    pub unit: usize,
    /// `[width, width]`: row j holds what a unit of error in each column adds to the target of column j.
    pub to_target: Vec<f32>,
    /// `[width, unit]`: for each unit, the symmetric matrix of the costs of what is missed.
    pub metric: Vec<f32>,
}

impl Factored {
    /// `h` is E[x x^T], `[width, width]`; `damping` times its mean diagonal is added to the diagonal.
    ///
    /// # Errors
    /// If H is not finite.
    pub fn new(mut h: Vec<f32>, width: usize, damping: f32) -> Result<Self> {
        let mean = (0..width).map(|j| f64::from(h[j * width + j])).sum::<f64>() / width as f64;
        // an input that is always zero leaves every choice open
        let add = if mean > 0.0 { (f64::from(damping) * mean) as f32 } else { 1.0 };
        (0..width).for_each(|j| h[j * width + j] += add);
        let last = width - 1;
        let reversed = Mat::<f64>::from_fn(width, width, |i, j| f64::from(h[(last - i) * width + last - j]));
        let factor =
            reversed.llt(Side::Lower).ok().context("the second moments of a layer's input cannot be factored")?;
        let factor = factor.L();
        let mut r = vec![0f32; width * width];
        r.par_chunks_exact_mut(width).enumerate().for_each(|(i, row)| {
            for (j, value) in row.iter_mut().enumerate().skip(i) {
                *value = factor[(last - i, last - j)] as f32;
            }
        });
        Ok(Factored { width, h, r })
    }

    /// The inverse of the damped H, `[width, width]`.
    pub fn inverse(&self) -> Vec<f32> {
        let width = self.width;
        let mut inverse = Mat::<f64>::from_fn(width, width, |i, j| f64::from(self.r[i * width + j]));
        let factor = inverse.clone();
        invert_upper_triangular(inverse.as_mut(), factor.as_ref(), faer::get_global_parallelism());
        let rows: Vec<f32> = (0..width * width).map(|at| inverse[(at / width, at % width)] as f32).collect();
        let mut out = vec![0f32; width * width];
        let shape = [width, width, width];
        gemm::multiply(
            &mut out,
            width,
            shape,
            gemm::Mat::rows(&rows, width).transposed(),
            gemm::Mat::rows(&rows, width),
            false,
            gemm::Threads::All,
        );
        out
    }

    /// For rounding column after column.
    pub fn feedback(&self, unit: usize) -> Coupling {
        let width = self.width;
        self.coupling(unit, |first, metric, to_target| {
            let corner = |i: usize, j: usize| f64::from(self.r[(first + i) * width + first + j]);
            for i in 0..unit {
                for j in 0..unit {
                    metric[i * unit + j] = (0..unit).map(|k| corner(i, k) * corner(j, k)).sum::<f64>() as f32;
                }
            }
            // X corner = R[..first, first..first + unit], row by row
            let mut x = [0f64; 8];
            for i in 0..first {
                for j in 0..unit {
                    let known: f64 = (0..j).map(|k| x[k] * corner(k, j)).sum();
                    x[j] = (f64::from(self.r[i * width + first + j]) - known) / corner(j, j);
                    to_target[j * width + i] = x[j] as f32;
                }
            }
        })
    }

    /// For rounding one unit again when all others are rounded.
    pub fn descent(&self, unit: usize) -> Coupling {
        let width = self.width;
        self.coupling(unit, |first, metric, to_target| {
            let corner = Mat::<f64>::from_fn(unit, unit, |i, j| f64::from(self.h[(first + i) * width + first + j]));
            for i in 0..unit {
                for j in 0..unit {
                    metric[i * unit + j] = corner[(i, j)] as f32;
                }
            }
            let inverse = inverse(&corner);
            for i in (0..width).filter(|i| !(first..first + unit).contains(i)) {
                let row = &self.h[i * width + first..][..unit];
                for j in 0..unit {
                    let sum: f64 = (0..unit).map(|k| f64::from(row[k]) * inverse[k * unit + j]).sum();
                    to_target[j * width + i] = sum as f32;
                }
            }
        })
    }

    /// `fill` gets the first column of a unit, its metric and its rows of `to_target`.
    fn coupling(&self, unit: usize, fill: impl Fn(usize, &mut [f32], &mut [f32]) + Sync) -> Coupling {
        let width = self.width;
        let (mut to_target, mut metric) = (vec![0f32; width * width], vec![0f32; width * unit]);
        let units = to_target.par_chunks_exact_mut(unit * width).zip(metric.par_chunks_exact_mut(unit * unit));
        units.enumerate().for_each(|(number, (to_target, metric))| fill(number * unit, metric, to_target));
        Coupling { width, unit, to_target, metric }
    }
}

/// The inverse of a small symmetric positive definite matrix, row-major.
fn inverse(matrix: &Mat<f64>) -> Vec<f64> {
    let n = matrix.nrows();
    let mut a: Vec<f64> = (0..n * n).map(|at| matrix[(at / n, at % n)]).collect();
    // Gauss-Jordan in place; pivots of such a matrix are positive
    for p in 0..n {
        let pivot = 1.0 / a[p * n + p];
        for j in 0..n {
            a[p * n + j] = if j == p { pivot } else { a[p * n + j] * pivot };
        }
        for i in (0..n).filter(|i| *i != p) {
            let factor = a[i * n + p];
            for j in 0..n {
                let base = if j == p { 0.0 } else { a[i * n + j] };
                a[i * n + j] = base - factor * a[p * n + j];
            }
        }
    }
    a
}

/// [`Within`] with values of its own.
pub struct BlockCoupling {
    pub coupling: Vec<f32>,
    pub metric: Vec<f32>,
    /// Of a [`Factored::descent`].
    pub moments: Option<Vec<f32>>,
}

impl BlockCoupling {
    pub fn view(&self) -> Within<'_> {
        Within { coupling: &self.coupling, metric: &self.metric, moments: self.moments.as_deref() }
    }
}

impl Coupling {
    /// For every block of `block` columns.
    pub fn by_block(&self, block: usize, is_descent: bool) -> Vec<BlockCoupling> {
        let of_block = |at: usize| {
            let first = at * block;
            BlockCoupling {
                coupling: self.within(first, block),
                metric: self.metric[first * self.unit..(first + block) * self.unit].to_vec(),
                moments: is_descent.then(|| self.moments(first, block)),
            }
        };
        (0..self.width / block).into_par_iter().map(of_block).collect()
    }

    /// What an error in one of `block` columns from `first` on adds to the targets of the others, `[block, block]`.
    pub fn within(&self, first: usize, block: usize) -> Vec<f32> {
        let at = |j: usize, k: usize| self.to_target[(first + k) * self.width + first + j];
        (0..block * block).map(|index| at(index / block, index % block)).collect()
    }

    /// The part of H between `block` columns from `first` on, `[block, block]`, of a [`Factored::descent`].
    pub fn moments(&self, first: usize, block: usize) -> Vec<f32> {
        let (unit, metric) = (self.unit, |row: usize, n: usize| self.metric[row * self.unit + n]);
        let between = |i: usize, j: usize| {
            let start = j - j % unit;
            if i - i % unit == start {
                return metric(i, j - start);
            }
            (0..unit).map(|n| self.to_target[(start + n) * self.width + i] * metric(start + n, j - start)).sum()
        };
        (0..block * block).map(|at| between(first + at / block, first + at % block)).collect()
    }

    /// The weights of these columns' own errors.
    pub fn diagonal(&self, columns: Range<usize>) -> Vec<f32> {
        columns.map(|j| self.metric[j * self.unit + j % self.unit]).collect()
    }
}
