//! Objectives beyond the mean, from outside: what they may never do, and where they move bytes.

use std::collections::BTreeMap;

use dq_gpu::plan::analysis::{ANALYSIS_VERSION, Analysis, Candidate, TensorAnalysis, padded};
use dq_gpu::plan::{Constraints, ModelShape, Objective, Outlook, Plan, Rule, Target, solve_for, solve_near};
use dq_gpu::quant::GgmlType::{self, *};
use dq_gpu::sensitivity::probe::{Probe, Probes};
use proptest::prelude::*;

const TYPES: [GgmlType; 5] = [Q3_K, IQ4_XS, Q4_K, Q5_K, Q6_K];
const CHUNK: usize = 64;

fn tensor(name: &str, rows: u64, scale: f64) -> TensorAnalysis {
    let mut tensor = TensorAnalysis::new(name, &[256, rows], BF16, true);
    let candidate = |&ty: &GgmlType| {
        let predicted = scale * 4f64.powf(-ty.bpw());
        Candidate { ty, bytes: ty.bytes_for(256 * rows), error: predicted, predicted }
    };
    tensor.candidates = TYPES.iter().map(candidate).collect();
    tensor
}

/// A model of groups of tensors (rows and cost of each), with the KL of every token of each group's probe, over chunks of these
/// domains.
fn analysis(groups: &[Vec<(u64, f64)>], klds: Vec<Vec<f32>>, domains: &[u16]) -> Analysis {
    let (mut tensors, mut probes) = (Vec::new(), Vec::new());
    for (group, (members, kld)) in groups.iter().zip(klds).enumerate() {
        let mut types = BTreeMap::new();
        for (number, &(rows, scale)) in members.iter().enumerate() {
            let name = format!("blk.{number}.g{group}.weight");
            tensors.push(tensor(&name, rows, scale));
            types.insert(name, Q3_K);
        }
        probes.push(Probe { name: format!("g{group}"), types, kld });
    }
    let names = (0..=domains.iter().copied().max().unwrap_or(0)).map(|domain| format!("domain {domain}"));
    let probes =
        Probes { text_hash: "t".to_owned(), domains: names.collect(), chunks: domains.to_vec(), groups: probes };
    Analysis {
        version: ANALYSIS_VERSION,
        model: "test".to_owned(),
        fingerprint: "abc".to_owned(),
        shape: ModelShape { architecture: "llama".to_owned(), block_count: 4, ..ModelShape::default() },
        tensors,
        probes: Some(probes),
        ..Analysis::default()
    }
}

/// Random groups; every domain has `chunks` chunks.
fn random(chunks: std::ops::Range<usize>) -> impl Strategy<Value = Analysis> {
    let members = prop::collection::vec((1u64..40, 0.1f64..10.0), 1..8);
    (prop::collection::vec(members, 2..6), prop::collection::vec(chunks, 1..4)).prop_flat_map(|(groups, counts)| {
        let domains: Vec<u16> =
            counts.iter().enumerate().flat_map(|(domain, count)| vec![domain as u16; *count]).collect();
        // from everyday values to those of rare disasters
        let kld = prop::collection::vec(-9f32..1.0, domains.len() * CHUNK);
        let klds = prop::collection::vec(kld.prop_map(|logs| logs.into_iter().map(f32::exp).collect()), groups.len());
        klds.prop_map(move |klds| analysis(&groups, klds, &domains))
    })
}

fn range(analysis: &Analysis) -> (u64, u64) {
    let of = |ty| analysis.base_bytes() + analysis.quantizable().map(|t| padded(t.bytes_as(ty).unwrap())).sum::<u64>();
    (of(Q3_K), of(Q6_K))
}

fn planned(analysis: &Analysis, target: Target, objective: Objective) -> (Plan, Outlook) {
    let (plan, outlook) = solve_for(analysis, &target, &Constraints::default(), objective).unwrap();
    (plan, outlook.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_over_budget_nor_worse_by_its_own_measure(analysis in random(1..5), at in 0.0f64..1.0) {
        let (least, most) = range(&analysis);
        let budget = least + ((most - least) as f64 * at) as u64;
        let by_mean = solve_near(&analysis, &Target::Size(budget), &Constraints::default()).unwrap();
        for objective in [Objective::Tail, Objective::Balanced] {
            let (plan, outlook) = planned(&analysis, Target::Size(budget), objective);
            prop_assert!(plan.bytes <= budget);
            prop_assert_eq!(plan.target, Target::Size(budget));
            prop_assert!(outlook.after.score <= outlook.before.score, "{:?}", outlook);
            // predictions stay those of the mean, and the plan for the mean is best there
            let nats = plan.predicted_kld.unwrap();
            prop_assert!((outlook.after.mean - nats).abs() <= 1e-6 * nats, "{:?} {}", outlook, nats);
            prop_assert!(nats >= by_mean.predicted_kld.unwrap() * (1.0 - 1e-9));
        }
    }

    #[test]
    fn a_balance_of_equal_domains_is_the_mean(analysis in random(3..4), at in 0.0f64..1.0) {
        let (least, most) = range(&analysis);
        let budget = least + ((most - least) as f64 * at) as u64;
        let by_mean = solve_near(&analysis, &Target::Size(budget), &Constraints::default()).unwrap();
        let (plan, outlook) = planned(&analysis, Target::Size(budget), Objective::Balanced);
        prop_assert!((outlook.before.score - outlook.before.mean).abs() <= 1e-6 * outlook.before.mean);
        prop_assert!((plan.predicted_kld.unwrap() - by_mean.predicted_kld.unwrap()).abs() <= 1e-6 * outlook.before.mean);
    }

    #[test]
    fn a_bound_is_one_of_the_mean(analysis in random(1..5), at in 0.0f64..1.0) {
        let (least, most) = range(&analysis);
        let nats = |size| solve_near(&analysis, &Target::Size(size), &Constraints::default()).unwrap().predicted_kld.unwrap();
        let bound = nats(most) + (nats(least) - nats(most)) * at;
        let smallest = solve_near(&analysis, &Target::MaxKld(bound), &Constraints::default()).unwrap();
        for objective in [Objective::Tail, Objective::Balanced] {
            let (plan, outlook) = planned(&analysis, Target::MaxKld(bound), objective);
            prop_assert!(plan.predicted_kld.unwrap() <= bound * (1.0 + 1e-9) && plan.bytes >= smallest.bytes);
            prop_assert!(outlook.after.score <= outlook.before.score);
        }
    }
}

/// Two groups that cost the mean the same; errors of the second one hurt few tokens, those of one chunk.
fn concentrated() -> Analysis {
    let members: Vec<(u64, f64)> = (0..8).map(|i| (8, 1.0 + f64::from(i) / 50.0)).collect();
    let domains = [0, 0, 0, 0, 0, 0, 0, 1];
    let tokens = domains.len() * CHUNK;
    let even = vec![0.01; tokens];
    let uneven = (0..tokens).map(|token| if token >= tokens - CHUNK { 0.08 } else { 0.0 }).collect();
    analysis(&[members.clone(), members], vec![even, uneven], &domains)
}

fn bytes_of(plan: &Plan, group: &str) -> u64 {
    plan.tensors.iter().filter(|(name, _)| name.contains(group)).map(|(_, assignment)| assignment.bytes).sum()
}

#[test]
fn bytes_go_where_few_tokens_are_hurt() {
    let analysis = concentrated();
    let (least, most) = range(&analysis);
    let target = Target::Size(least + (most - least) / 2);
    let by_mean = solve_near(&analysis, &target, &Constraints::default()).unwrap();
    assert!(bytes_of(&by_mean, "g0").abs_diff(bytes_of(&by_mean, "g1")) < by_mean.bytes / 20);
    for objective in [Objective::Tail, Objective::Balanced] {
        let (plan, outlook) = planned(&analysis, target, objective);
        assert!(bytes_of(&plan, "g1") > bytes_of(&plan, "g0") + by_mean.bytes / 20, "{objective:?}: {outlook:?}");
        assert!(outlook.after.focus < 0.8 * outlook.before.focus, "{objective:?}: {outlook:?}");
        assert!(outlook.after.mean >= outlook.before.mean);
    }
}

#[test]
fn demands_hold_whatever_the_objective() {
    let analysis = concentrated();
    let (least, most) = range(&analysis);
    let ties = vec![vec!["blk.0.g0.weight".to_owned(), "blk.0.g1.weight".to_owned(), "blk.1.g1.weight".to_owned()]];
    let constraints = Constraints {
        types: Some(vec![Q3_K, Q4_K, Q6_K]),
        rules: vec![Rule::keep(r"blk\.2\.g1=Q3_K").unwrap()],
        ties: ties.clone(),
        ..Constraints::default()
    };
    let target = Target::Size(least + (most - least) / 2);
    let (plan, _) = solve_for(&analysis, &target, &constraints, Objective::Tail).unwrap();
    assert_eq!(plan.ty("blk.2.g1.weight"), Some(Q3_K));
    let tied: Vec<_> = ties[0].iter().map(|name| plan.ty(name)).collect();
    assert!(tied.iter().all(|ty| *ty == tied[0]));
    assert!(plan.types().keys().all(|ty| [Q3_K, Q4_K, Q6_K].contains(ty)));
}

#[test]
fn the_tail_needs_a_table_of_tokens_but_the_mean_does_not() {
    let bare = Analysis { probes: None, ..concentrated() };
    let target = Target::Size(range(&bare).1);
    let none = solve_for(&bare, &target, &Constraints::default(), Objective::Mean).unwrap();
    assert!(none.1.is_none());
    let error = solve_for(&bare, &target, &Constraints::default(), Objective::Tail).unwrap_err().to_string();
    assert!(error.contains("--objective") && error.contains("analyze --probes"), "{error}");
}

#[test]
fn the_table_travels_in_the_analysis() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analysis.json");
    let mut analysis = concentrated();
    analysis.probes.as_mut().unwrap().groups[0].kld[0] = 0.012_345_6;
    analysis.write(&path).unwrap();
    let read = Analysis::read(&path).unwrap();
    // three digits of each
    analysis.probes.as_mut().unwrap().groups[0].kld[0] = 0.0123;
    assert_eq!(read, analysis);
    for damage in [-1.0, f32::INFINITY] {
        analysis.probes.as_mut().unwrap().groups[0].kld[0] = damage;
        assert!(analysis.validate().is_err());
    }
    analysis.probes.as_mut().unwrap().groups[0].kld.pop();
    assert!(analysis.validate().is_err());
}
