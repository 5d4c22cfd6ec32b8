//! Logits against transformers.

use dq_gpu::device::Device;
use dq_gpu::forward::StreamOptions;

use crate::common;
use crate::golden::{CASES, Golden, log_sum_exp, logits_of};

/// Largest difference of a logit over the largest logit, and largest difference of a log probability.
fn distance(device: &Device, case: &str) -> (f64, f64) {
    let golden = Golden::read(case);
    let model = golden.open();
    let tokens = golden.tokens();
    let ours = logits_of(device, &model, &model, &tokens, golden.seq_len(), StreamOptions::default());
    let vocabulary = model.hparams.n_vocab;
    assert_eq!(ours.len(), tokens.len() * vocabulary);

    let (mut largest, mut logit, mut log_p) = (0f64, 0f64, 0f64);
    for (ours, (wanted, wanted_lse)) in ours.chunks_exact(vocabulary).zip(golden.positions()) {
        let lse = log_sum_exp(ours);
        for (column, want) in golden.columns.iter().zip(wanted) {
            let (got, want) = (f64::from(ours[*column]), f64::from(*want));
            largest = largest.max(want.abs());
            logit = logit.max((got - want).abs());
            log_p = log_p.max((got - lse - (want - f64::from(wanted_lse))).abs());
        }
    }
    println!(
        "{case:<18} {}: logits {:.1e} (reference noise {:.1e} of {largest:.1}), log p {log_p:.1e}",
        device.name(),
        logit / largest,
        golden.f32_noise / largest
    );
    (logit / largest, log_p)
}

fn check(device: &Device, cases: &[&str], bound: f64) {
    for case in cases {
        let (logit, log_p) = distance(device, case);
        assert!(logit <= bound && log_p <= 10.0 * bound, "{case}: {logit:.1e}, {log_p:.1e}");
    }
}

#[test]
fn the_cpu_computes_what_transformers_computes() {
    check(&Device::cpu(), &CASES, 2e-5);
}

#[test]
fn a_gpu_computes_what_transformers_computes() {
    let Some(device) = common::gpu() else { return };
    check(device, &CASES, 1e-4);
}
