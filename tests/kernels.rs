//! Every kernel on every device against a naive f64 reference, on odd shapes; gradients against finite differences.

#[path = "kernels/attention.rs"]
mod attention;
mod common;
#[path = "kernels/elementwise.rs"]
mod elementwise;
#[path = "kernels/products.rs"]
mod products;
#[path = "kernels/recode.rs"]
mod recode;
#[path = "kernels/recurrent.rs"]
mod recurrent;
#[path = "kernels/vocabulary.rs"]
mod vocabulary;

/// Sum of a[i] * b[i] in f64: the loss whose gradient with respect to the output is b.
pub fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The gradient of `loss` by central differences.
pub fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-4;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let kept = x[i];
            x[i] = kept + step;
            let above = loss(&x);
            x[i] = kept - step;
            let below = loss(&x);
            x[i] = kept;
            (above - below) / (2.0 * step)
        })
        .collect()
}
