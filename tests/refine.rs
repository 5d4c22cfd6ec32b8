//! How measured corrections move a plan.

use std::collections::BTreeMap;

use dq_gpu::pipeline::refine::{moved, repredicted};
use dq_gpu::plan::analysis::{ANALYSIS_VERSION, Analysis, Candidate, TensorAnalysis};
use dq_gpu::plan::{Constraints, ModelShape, Plan, Target, solve};
use dq_gpu::quant::GgmlType::{self, *};

/// Forty equal tensors in three types. At these costs a budget of the size of all in Q4_K is spent on Q4_K alone.
fn analysis() -> Analysis {
    let costs = [(Q3_K, 0.040), (Q4_K, 0.010), (Q5_K, 0.004)];
    let tensors = (0..40).map(|i| {
        let mut tensor = TensorAnalysis::new(&format!("blk.{i}.ffn_up.weight"), &[256, 64], BF16, true);
        let worth = 1.0 + f64::from(i) / 400.0;
        let candidate = |(ty, cost): (GgmlType, f64)| {
            let bytes = ty.bytes_for(256 * 64);
            Candidate { ty, bytes, error: cost, predicted: worth * cost }
        };
        tensor.candidates = costs.into_iter().map(candidate).collect();
        tensor
    });
    Analysis {
        version: ANALYSIS_VERSION,
        model: "test".to_owned(),
        fingerprint: "abc".to_owned(),
        shape: ModelShape { architecture: "llama".to_owned(), block_count: 40, ..ModelShape::default() },
        tensors: tensors.collect(),
        ..Analysis::default()
    }
}

fn plan(analysis: &Analysis) -> Plan {
    let budget = analysis.tensors.len() as u64 * Q4_K.bytes_for(256 * 64);
    solve(analysis, &Target::Size(budget), &Constraints::default()).unwrap()
}

fn refine(corrections: &[(GgmlType, f64)]) -> (Analysis, Plan, Option<(Plan, u64)>) {
    let analysis = analysis();
    let first = plan(&analysis);
    let corrections: BTreeMap<GgmlType, f64> = corrections.iter().copied().collect();
    let found = moved(&analysis, &first, &corrections, |corrected| Ok(plan(corrected))).unwrap();
    (analysis, first, found)
}

#[test]
fn a_plan_that_predictions_fit_stays() {
    let (_, first, found) = refine(&[(Q3_K, 1.0), (Q4_K, 1.0), (Q5_K, 1.0)]);
    assert!(first.tensors.values().all(|assignment| assignment.ty == Q4_K));
    assert_eq!(found, None);
}

#[test]
fn no_round_moves_more_than_a_fifth_of_the_bytes() {
    // types beside Q4_K turn out so cheap that all tensors would leave it
    for cheap in [0.9, 0.75, 0.6, 0.5, 0.4] {
        let (_, first, found) = refine(&[(Q3_K, cheap), (Q4_K, 2.0), (Q5_K, cheap)]);
        let Some((plan, bytes)) = found else { continue };
        let changed = plan.tensors.iter().filter(|(name, assignment)| first.ty(name) != Some(assignment.ty));
        assert_eq!(changed.map(|(_, assignment)| assignment.bytes).sum::<u64>(), bytes);
        let all: u64 = plan.tensors.values().map(|assignment| assignment.bytes).sum();
        assert!(bytes > 0 && bytes * 5 <= all, "{bytes} of {all} at {cheap}");
        assert!(plan.bytes <= first.bytes);
    }
}

#[test]
fn predictions_follow_what_was_measured() {
    let analysis = analysis();
    let first = plan(&analysis);
    let corrections = BTreeMap::from([(Q4_K, 1.5)]);
    let again = repredicted(&first, &analysis, &corrections).unwrap();
    assert_eq!((again.bytes, &again.hash), (first.bytes, &first.hash));
    let ratio = again.predicted_kld.unwrap() / first.predicted_kld.unwrap();
    assert!((ratio - 1.5).abs() < 1e-9, "{ratio}");
}
