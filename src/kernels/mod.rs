//! One file per kernel: its dispatch beside its CPU twin. The shader has the same name.
//!
//! A kernel checks the sizes of its buffers, then runs the twin on the CPU device or records a [`Call`] on a GPU.
//! Matrices are row-major; `n` counts tokens. No kernel takes one buffer both to read and to write.

pub mod add_rows;
pub mod attention;
pub mod attention_backward;
pub mod column_moments;
pub mod copy_columns;
pub mod decode;
pub mod delta_gates;
pub mod delta_gates_backward;
pub mod encode;
pub mod gated_delta;
pub mod gated_delta_backward;
pub mod gather_rows;
pub(crate) mod gemm;
pub mod glu;
pub mod glu_backward;
pub mod gram;
pub mod kld;
pub mod logit_shape;
pub mod matmul;
pub mod matmul_transposed;
pub mod norm;
pub mod norm_backward;
pub mod recode;
pub mod rope;
pub mod row_dot;
pub mod row_error;
pub mod sample_gradient;
pub mod scale;
pub mod short_conv;
pub mod short_conv_backward;
pub mod sigmoid_gate;
pub mod sigmoid_gate_backward;
pub mod sum;
pub mod weight;
pub mod weight_difference;

use anyhow::{Context, Result};

pub use crate::device::Call;

/// A size as a shader sees it.
pub(crate) fn word(value: usize) -> Result<u32> {
    u32::try_from(value).with_context(|| format!("too large for a kernel: `{value}`"))
}

/// A pointer that rayon tasks share to write disjoint parts of one matrix.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint(*mut f32);

// SAFETY: the tasks of every user write disjoint elements (each says which) and the borrow outlives them.
unsafe impl Send for Disjoint {}
// SAFETY: as above.
unsafe impl Sync for Disjoint {}

impl Disjoint {
    pub(crate) fn new(values: &mut [f32]) -> Disjoint {
        Disjoint(values.as_mut_ptr())
    }

    /// The address of element `index`.
    pub(crate) fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// Sum of the products of two equally long slices, in 16 lanes so that it vectorizes and loses little.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<16>();
    let (b_lanes, b_rest) = b.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// exp(x) within 2 ulp for x in [-87, 88], clamped outside. Unlike the library's it vectorizes.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + MAGIC;
    let whole = rounded - MAGIC;
    // ln 2 in two parts, the first exact in few bits.
    let r = x - whole * 0.693_359_4 - whole * -2.121_944_4e-4;
    let tail = 1.987_569_2e-4;
    let tail = tail * r + 1.398_199_9e-3;
    let tail = tail * r + 8.333_452e-3;
    let tail = tail * r + 4.166_579_6e-2;
    let tail = tail * r + 1.666_666_6e-1;
    let tail = tail * r + 0.5;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    (tail * r * r + r + 1.0) * power
}

/// tanh(x), without ever making an infinity, however large x.
pub(crate) fn tanh(x: f32) -> f32 {
    let small = exp(-2.0 * x.abs());
    ((1.0 - small) / (1.0 + small)).copysign(x)
}

/// Invocations and elements of one workgroup of the elementwise kernels.
pub(crate) const ELEMENTS_PER_GROUP: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for i in -86_999..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 2.4e-7, "exp({x})");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 2e-38 && exp(-1e30) >= 0.0);
    }

    #[test]
    fn dot_adds_every_element() {
        for len in [0, 1, 15, 16, 17, 100] {
            let ones = vec![1.0; len];
            assert_eq!(dot(&ones, &ones), len as f32);
        }
    }
}
