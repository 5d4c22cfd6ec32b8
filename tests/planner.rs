//! The planner from outside: budgets, optimality, rules, ties, targets, plan files.

use std::collections::BTreeMap;

use dq_gpu::plan::analysis::{ANALYSIS_VERSION, Analysis, Candidate, TensorAnalysis, padded};
use dq_gpu::plan::constraints::{Constraints, Demand, Profile, Rule};
use dq_gpu::plan::{Ftype, ModelShape, Objective, Plan, Target, check_budget, report, solve};
use dq_gpu::quant::GgmlType::{self, *};
use proptest::prelude::*;

const TYPES: [GgmlType; 6] = [Q2_K, Q3_K, IQ4_XS, Q4_K, Q5_K, Q6_K];

/// A tensor whose predicted KL is `scale * 4^-bits`, times the factor given for each type.
fn tensor(name: &str, rows: u64, cols: u64, scale: f64, factors: &[f64], types: &[GgmlType]) -> TensorAnalysis {
    let mut tensor = TensorAnalysis::new(name, &[cols, rows], BF16, true);
    tensor.candidates = types
        .iter()
        .zip(factors.iter().cycle())
        .filter(|(ty, _)| ty.fits(cols as usize))
        .map(|(&ty, factor)| {
            let predicted = scale * factor * 4f64.powf(-ty.bpw());
            Candidate { ty, bytes: tensor.bytes_as(ty).unwrap(), error: predicted * 10.0, predicted }
        })
        .collect();
    tensor
}

fn analysis(tensors: Vec<TensorAnalysis>) -> Analysis {
    let norm = TensorAnalysis::new("output_norm.weight", &[257], F32, false);
    Analysis {
        version: ANALYSIS_VERSION,
        model: "test".to_owned(),
        fingerprint: "abc".to_owned(),
        calibration_hash: "def".to_owned(),
        sensitivity: "made up".to_owned(),
        shape: ModelShape {
            architecture: "llama".to_owned(),
            block_count: 4,
            head_count: 4,
            head_count_kv: 2,
            ..ModelShape::default()
        },
        fixed_bytes: 4096,
        tensors: tensors.into_iter().chain([norm]).collect(),
        ..Analysis::default()
    }
}

/// `blk.0.ffn_up.weight` and so on with random sizes and costs.
fn random_analysis(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Analysis> {
    let one = (1u64..40, 1u64..4, 0.01f64..100.0, prop::collection::vec(0.3f64..3.0, TYPES.len()));
    prop::collection::vec(one, count).prop_map(|parts| {
        let tensors = parts.into_iter().enumerate().map(|(i, (rows, blocks, scale, factors))| {
            tensor(&format!("blk.{i}.ffn_up.weight"), rows, blocks * 256, scale, &factors, &TYPES)
        });
        analysis(tensors.collect())
    })
}

fn plan(analysis: &Analysis, target: Target) -> Plan {
    solve(analysis, &target, &Constraints::default()).unwrap()
}

fn error(analysis: &Analysis, target: Target, constraints: &Constraints) -> String {
    format!("{:#}", solve(analysis, &target, constraints).unwrap_err())
}

/// Smallest and largest file of any plan.
fn range(analysis: &Analysis) -> (u64, u64) {
    let of = |pick: fn(&TensorAnalysis) -> u64| {
        analysis.base_bytes() + analysis.quantizable().map(|t| padded(pick(t))).sum::<u64>()
    };
    (
        of(|t| t.candidates.iter().map(|c| c.bytes).min().unwrap()),
        of(|t| t.candidates.iter().map(|c| c.bytes).max().unwrap()),
    )
}

/// The least predicted KL of any assignment within `budget` bytes, by trying them all.
fn brute_force(analysis: &Analysis, budget: u64) -> Option<f64> {
    let tensors: Vec<&TensorAnalysis> = analysis.quantizable().collect();
    fn best(tensors: &[&TensorAnalysis], left: u64) -> Option<f64> {
        let Some((first, rest)) = tensors.split_first() else { return Some(0.0) };
        let options = first.candidates.iter().filter(|c| padded(c.bytes) <= left);
        options.filter_map(|c| Some(c.predicted + best(rest, left - padded(c.bytes))?)).min_by(f64::total_cmp)
    }
    best(&tensors, budget.checked_sub(analysis.base_bytes())?)
}

fn file_bytes(analysis: &Analysis, plan: &Plan) -> u64 {
    analysis.base_bytes() + plan.tensors.values().map(|t| padded(t.bytes)).sum::<u64>()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn optimal_on_small_instances(analysis in random_analysis(1..7), at in 0.0f64..1.0) {
        let (least, most) = range(&analysis);
        let budget = least + ((most - least) as f64 * at) as u64;
        let plan = plan(&analysis, Target::Size(budget));
        prop_assert!(plan.bytes <= budget);
        prop_assert_eq!(plan.bytes, file_bytes(&analysis, &plan));
        let (found, exact) = (plan.predicted_kld.unwrap(), brute_force(&analysis, budget).unwrap());
        prop_assert!((found - exact).abs() <= 1e-9 * exact, "{} instead of {}", found, exact);
    }

    #[test]
    fn smallest_file_for_a_divergence(analysis in random_analysis(1..6), at in 0.0f64..1.0) {
        let best = plan(&analysis, Target::Size(u64::MAX / 2)).predicted_kld.unwrap();
        let worst = plan(&analysis, Target::Size(range(&analysis).0)).predicted_kld.unwrap();
        let nats = best + (worst - best) * at;
        let plan = plan(&analysis, Target::MaxKld(nats));
        prop_assert!(plan.predicted_kld.unwrap() <= nats * (1.0 + 1e-12));
        // One byte less must not do.
        if let Some(smaller) = brute_force(&analysis, plan.bytes - 1) {
            prop_assert!(smaller > nats, "{} <= {}", smaller, nats);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_over_budget_nor_worse_than_uniform_and_monotone(analysis in random_analysis(20..120)) {
        let (least, most) = range(&analysis);
        let uniform: Vec<Plan> = TYPES.iter().map(|&ty| plan(&analysis, Target::Pure(ty))).collect();
        let mut last = f64::INFINITY;
        for step in 0..=12 {
            let budget = least + (most - least) * step / 12;
            let plan = plan(&analysis, Target::Size(budget));
            prop_assert!(plan.bytes <= budget);
            let nats = plan.predicted_kld.unwrap();
            prop_assert!(nats <= last * (1.0 + 1e-9), "{} after {}", nats, last);
            last = nats;
            for other in uniform.iter().filter(|other| other.bytes <= budget) {
                prop_assert!(nats <= other.predicted_kld.unwrap() * (1.0 + 1e-9));
            }
        }
        for other in &uniform {
            let ours = plan(&analysis, Target::Bpw(other.bpw));
            prop_assert!(ours.bpw <= other.bpw * (1.0 + 1e-9));
            prop_assert!(ours.predicted_kld.unwrap() <= other.predicted_kld.unwrap() * (1.0 + 1e-9));
        }
    }

    #[test]
    fn ties_and_pins_hold(analysis in random_analysis(8..30), at in 0.0f64..1.0) {
        let names: Vec<String> = analysis.quantizable().map(|t| t.name.clone()).collect();
        let constraints = Constraints {
            ties: vec![names[1..4].to_vec(), vec![names[3].clone(), names[5].clone()]],
            rules: vec![
                Rule::keep(r"^blk\.0\.=Q5_K").unwrap(),
                Rule { pattern: r"^blk\.6\.".parse().unwrap(), demand: Demand::AtLeast(Q4_K) },
                Rule { pattern: r"^blk\.7\.".parse().unwrap(), demand: Demand::OneOf(vec![Q3_K, Q5_K]) },
            ],
            ..Constraints::default()
        };
        let (_, most) = range(&analysis);
        let smallest = error(&analysis, Target::Size(1), &constraints);
        let least: u64 = smallest.split(' ').find(|word| word.contains(',')).unwrap().replace(',', "").parse().unwrap();
        prop_assume!(least <= most);
        let budget = least + ((most - least) as f64 * at) as u64;
        let plan = solve(&analysis, &Target::Size(budget), &constraints).unwrap();
        prop_assert!(plan.bytes <= budget);
        let ty = |i: usize| plan.ty(&names[i]).unwrap();
        prop_assert!([2, 3, 5].iter().all(|&i| ty(i) == ty(1)));
        prop_assert_eq!(ty(0), Q5_K);
        prop_assert!(ty(6).bpw() >= Q4_K.bpw());
        prop_assert!(matches!(ty(7), Q3_K | Q5_K));
    }

    #[test]
    fn plan_files_round_trip(analysis in random_analysis(2..20), at in 0.0f64..1.0) {
        let (least, most) = range(&analysis);
        let plan = plan(&analysis, Target::Size(least + ((most - least) as f64 * at) as u64));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        plan.write(&path).unwrap();
        prop_assert_eq!(Plan::read(&path, &analysis).unwrap(), plan);
        let path = folder.path().join("analysis.json");
        analysis.write(&path).unwrap();
        prop_assert_eq!(Analysis::read(&path).unwrap(), analysis);
    }
}

/// Shapes of DeepSeek-V3.1 (671 B weights): every matrix of 61 layers, 20 types each.
fn deepseek() -> Analysis {
    let types: Vec<GgmlType> = GgmlType::all().filter(|&ty| ty.is_quantized() && Profile::Quality.allows(ty)).collect();
    let types: Vec<GgmlType> = types.into_iter().chain([F16, BF16]).collect();
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as f64 / (1u64 << 31) as f64
    };
    let mut tensors = Vec::new();
    let mut add = |name: String, cols: u64, rows: u64| {
        let factors: Vec<f64> = types.iter().map(|_| 0.7 + 0.6 * random()).collect();
        let scale = 0.05 * (1.0 + 20.0 * random());
        tensors.push(tensor(&name, rows, cols, scale, &factors, &types));
    };
    add("token_embd.weight".to_owned(), 7168, 129280);
    add("output.weight".to_owned(), 7168, 129280);
    for layer in 0..61 {
        let mut add = |name: &str, cols: u64, rows: u64| add(format!("blk.{layer}.{name}.weight"), cols, rows);
        add("attn_q_a", 7168, 1536);
        add("attn_q_b", 1536, 24576);
        add("attn_kv_a_mqa", 7168, 576);
        add("attn_k_b", 128, 512 * 128);
        add("attn_v_b", 512, 128 * 128);
        add("attn_output", 16384, 7168);
        if layer < 3 {
            add("ffn_up", 7168, 18432);
            add("ffn_gate", 7168, 18432);
            add("ffn_down", 18432, 7168);
        } else {
            for (name, cols, rows) in [("up", 7168, 2048), ("gate", 7168, 2048), ("down", 2048, 7168)] {
                add(&format!("ffn_{name}_shexp"), cols, rows);
                // Split in halves to have more than a thousand tensors.
                add(&format!("ffn_{name}_exps"), cols, rows * 128);
                add(&format!("ffn_{name}_exps_b"), cols, rows * 128);
            }
        }
    }
    analysis(tensors)
}

/// How long this takes is measured by `benches/planner.rs`.
#[test]
fn a_model_of_671_billion_weights() {
    let analysis = deepseek();
    assert!(analysis.tensors.len() > 850 && analysis.elements() > 660_000_000_000);
    let mut last = f64::INFINITY;
    for bpw in [2.0, 2.71, 3.5, 4.25, 5.5] {
        let plan = plan(&analysis, Target::Bpw(bpw));
        assert!(plan.bpw <= bpw && plan.bpw > bpw - 0.001, "{}", plan.bpw);
        assert!(plan.predicted_kld.unwrap() < last);
        last = plan.predicted_kld.unwrap();
        // and the other way round: no larger file is needed for this KL, up to what the cap on states costs
        let found = self::plan(&analysis, Target::MaxKld(last));
        let (nats, allowed) = (found.predicted_kld.unwrap(), last * (1.0 + 1e-12));
        assert!(
            nats <= allowed && found.bpw <= plan.bpw * (1.0 + 1e-5),
            "{nats} of {last}, {} of {}",
            found.bpw,
            plan.bpw
        );
    }
}

#[test]
fn a_giant_tensor_does_not_waste_the_budget() {
    // The embedding holds most bytes, and its hull steps never fit on top of the rest.
    let mut tensors = vec![tensor("token_embd.weight", 4000, 256, 3.0, &[1.0, 1.0, 1.5, 1.0, 1.0, 1.0], &TYPES)];
    for i in 0..6 {
        tensors.push(tensor(&format!("blk.{i}.ffn_up.weight"), 300, 256, 1.0 + i as f64, &[1.0], &TYPES));
    }
    let analysis = analysis(tensors);
    for step in 0..50 {
        let (least, most) = range(&analysis);
        let budget = least + (most - least) * step / 50;
        let (found, exact) = (plan(&analysis, Target::Size(budget)), brute_force(&analysis, budget).unwrap());
        assert!(found.predicted_kld.unwrap() <= exact * (1.0 + 1e-9), "at {budget}");
    }
}

#[test]
fn same_arguments_same_plan() {
    let analysis = deepseek();
    assert_eq!(plan(&analysis, Target::Bpw(3.1)), plan(&analysis, Target::Bpw(3.1)));
}

/// One layer with a tied embedding; rows of `ffn_down` fit 32-blocks only.
fn small() -> Analysis {
    let mut analysis = analysis(vec![
        tensor("token_embd.weight", 100, 512, 1.0, &[1.0], &TYPES),
        tensor("blk.0.attn_q.weight", 64, 512, 5.0, &[1.0], &TYPES),
        tensor("blk.0.ffn_down.weight", 64, 2880, 2.0, &[1.0], &[Q4_0, IQ4_NL, Q5_0, Q5_1, Q8_0]),
    ]);
    analysis.shape.block_count = 1;
    analysis
}

#[test]
fn budgets_out_of_range() {
    let analysis = small();
    let (least, most) = range(&analysis);
    let text = error(&analysis, Target::Size(least - 1), &Constraints::default());
    assert!(text.starts_with("the smallest possible file has ") && text.contains("but the budget is"), "{text}");
    assert!(plan(&analysis, Target::Size(least)).bytes == least);
    assert!(plan(&analysis, Target::Size(most * 10)).bytes == most);
    assert!(error(&analysis, Target::Bpw(1.0), &Constraints::default()).contains("bits per weight but 1 were asked"));
    assert!(error(&analysis, Target::Bpw(f64::NAN), &Constraints::default()).contains("positive"));
    assert!(error(&analysis, Target::MaxKld(1e-9), &Constraints::default()).contains("but at most"));
}

/// What no plan can meet is refused from names and shapes alone, and nothing else is.
#[test]
fn budgets_are_checked_before_anything_is_measured() {
    let (measured, mut bare) = (small(), small());
    bare.tensors.iter_mut().for_each(|tensor| tensor.candidates.clear());
    let types = [&TYPES[..], &[Q4_0, IQ4_NL, Q5_0, Q5_1, Q8_0]].concat();
    let check = |target| check_budget(&bare, &target, &Constraints::default(), &types).map_err(|e| e.to_string());
    let (least, _) = range(&measured);
    assert_eq!(check(Target::Size(least)), Ok(()));
    assert!(check(Target::Size(least - 1)).unwrap_err().starts_with("the smallest possible file has "));
    let bpw = plan(&measured, Target::Size(least)).bpw;
    assert_eq!(check(Target::Bpw(bpw)), Ok(()));
    assert!(check(Target::Bpw(bpw * 0.999)).unwrap_err().starts_with("the smallest possible plan has "));
    for target in [Target::MaxKld(1e-9), Target::Pure(Q2_K), Target::Type(Ftype::Q4_K_M)] {
        assert_eq!(check(target), Ok(()));
    }
    let keep = Constraints { rules: vec![Rule::keep("nothing=Q4_K").unwrap()], ..Constraints::default() };
    assert!(check_budget(&bare, &Target::Pure(Q2_K), &keep, &types).is_err());
}

#[test]
fn rules_that_match_nothing_are_errors() {
    let analysis = small();
    let with = |rule: &str| Constraints { rules: vec![Rule::keep(rule).unwrap()], ..Constraints::default() };
    let target = Target::Bpw(5.0);
    assert!(error(&analysis, target, &with("ffn_gate=Q8_0")).contains("matches no tensor: `ffn_gate`"));
    assert!(error(&analysis, target, &with("output_norm=F16")).contains("never quantized: `output_norm`"));
    assert!(solve(&analysis, &target, &with("norm|attn_q=Q6_K")).is_ok());
}

#[test]
fn the_first_of_several_keeps_wins_and_misfits_fall_back() {
    let analysis = small();
    let rules = vec![Rule::keep("attn=Q6_K").unwrap(), Rule::keep("attn_q|ffn=Q4_K").unwrap()];
    let constraints = Constraints { rules, ..Constraints::default() };
    for target in [Target::Bpw(6.0), Target::Pure(Q3_K), Target::Type(Ftype::Q4_K_M)] {
        let plan = solve(&analysis, &target, &constraints).unwrap();
        assert_eq!(plan.ty("blk.0.attn_q.weight"), Some(Q6_K), "{target:?}");
        assert_eq!(plan.ty("blk.0.ffn_down.weight"), Some(Q5_0), "{target:?}");
        let fallback = &plan.fallbacks.iter().find(|f| f.tensor == "blk.0.ffn_down.weight").unwrap();
        assert_eq!((fallback.wanted, fallback.used), (Q4_K, Q5_0));
    }
}

#[test]
fn type_lists_and_profiles() {
    let analysis = small();
    let types = |plan: &Plan| plan.types().into_keys().collect::<Vec<_>>();
    let listed = Constraints { types: Some(vec![Q4_K, Q6_K]), ..Constraints::default() };
    // Q4_K and Q6_K stand for Q5_0 and Q8_0 where rows do not fit.
    let plan = solve(&analysis, &Target::Size(u64::MAX / 2), &listed).unwrap();
    assert_eq!(types(&plan), [Q8_0, Q6_K]);
    let plan = solve(&analysis, &Target::Bpw(6.0), &listed).unwrap();
    assert!(types(&plan).iter().all(|ty| matches!(ty, Q4_K | Q6_K | Q5_0 | Q8_0)));

    for profile in [Profile::Cpu, Profile::Apple, Profile::Compatible] {
        let constraints = Constraints { profile, ..Constraints::default() };
        for bpw in [4.0, 4.3, 4.6, 5.0] {
            let plan = solve(&analysis, &Target::Bpw(bpw), &constraints).unwrap();
            assert!(!types(&plan).contains(&IQ4_XS));
            assert!(profile != Profile::Compatible || !types(&plan).contains(&IQ4_NL));
        }
    }
    let none = Constraints { types: Some(vec![IQ1_S]), ..Constraints::default() };
    assert!(error(&analysis, Target::Bpw(4.0), &none).contains("is allowed for the tensor: `token_embd.weight`"));
}

#[test]
fn mixes_and_single_types_need_no_measurements() {
    let mut analysis = small();
    for tensor in &mut analysis.tensors {
        tensor.candidates.clear();
    }
    let mix = plan(&analysis, Target::Type(Ftype::Q4_K_M));
    // Tied embedding: the output rule.
    assert_eq!(mix.ty("token_embd.weight"), Some(Q6_K));
    assert_eq!((mix.predicted_kld, mix.file_type), (None, Ftype::Q4_K_M));
    let pure = plan(&analysis, Target::Pure(Q4_K));
    assert_eq!(pure.types().into_keys().collect::<Vec<_>>(), [Q5_0, Q4_K]);
    assert_eq!(pure.fallbacks.len(), 1);
    // Lossless types are known to cost nothing.
    assert_eq!(plan(&analysis, Target::Type(Ftype::BF16)).predicted_kld, Some(0.0));
    assert_eq!(plan(&analysis, Target::Type(Ftype::F32)).predicted_kld, Some(0.0));
    assert!(error(&analysis, Target::Bpw(4.0), &Constraints::default()).contains("no type was measured"));
}

#[test]
fn an_unmeasured_pin_is_planned_around() {
    let analysis = small();
    let constraints = Constraints { rules: vec![Rule::keep("token_embd=Q8_0").unwrap()], ..Constraints::default() };
    let plan = solve(&analysis, &Target::Bpw(6.0), &constraints).unwrap();
    assert_eq!((plan.ty("token_embd.weight"), plan.predicted_kld), (Some(Q8_0), None));
    assert!(error(&analysis, Target::MaxKld(1.0), &constraints).contains("was not measured"));
}

#[test]
fn conflicting_ties_are_errors() {
    let mut analysis = small();
    let tie = |a: &str, b: &str| vec![vec![a.to_owned(), b.to_owned()]];
    let constraints = Constraints {
        ties: tie("token_embd.weight", "blk.0.attn_q.weight"),
        rules: vec![Rule::keep("token_embd=Q8_0").unwrap(), Rule::keep("attn_q=Q6_K").unwrap()],
        ..Constraints::default()
    };
    assert!(error(&analysis, Target::Bpw(5.0), &constraints).contains("kept in different types"));
    let constraints = Constraints { ties: tie("token_embd.weight", "blk.9"), ..Constraints::default() };
    assert!(error(&analysis, Target::Bpw(5.0), &constraints).contains("unknown tensor: `blk.9`"));
    analysis.ties = tie("token_embd.weight", "blk.0.ffn_down.weight");
    assert!(error(&analysis, Target::Bpw(5.0), &Constraints::default()).contains("no allowed type in common"));
}

#[test]
fn bits_per_weight_count_all_tensors() {
    let plan = plan(&small(), Target::Pure(Q4_K));
    // 164 rows of 512 weights at 4.5 bits, 64 rows of 2880 at 5.5, a norm of 257 at 32.
    let bits = (164.0 * 512.0 * 4.5) + (64.0 * 2880.0 * 5.5) + 257.0 * 32.0;
    assert_eq!(plan.bpw, bits / (164.0 * 512.0 + 64.0 * 2880.0 + 257.0));
    // The norm of 1028 bytes is padded to 1056 in the file.
    assert_eq!(plan.bytes, 4096 + 1056 + (164 * 512 / 256 * 144) + (64 * 2880 / 32 * 22));
}

/// A plan keeps its predictions on a model that was not measured, unless either has changed.
#[test]
fn plan_files_keep_their_predictions() {
    let (measured, mut bare) = (small(), small());
    bare.tensors.iter_mut().for_each(|tensor| tensor.candidates.clear());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    let mut made = plan(&measured, Target::Bpw(4.5));
    made.write(&path).unwrap();
    assert_eq!(Plan::read(&path, &bare).unwrap(), made);
    let other = Analysis { fingerprint: "other".to_owned(), ..bare.clone() };
    assert_eq!(Plan::read(&path, &other).unwrap().predicted_kld, None);
    made.tensors.get_mut("blk.0.attn_q.weight").unwrap().ty = Q8_0;
    made.write(&path).unwrap();
    assert_eq!(Plan::read(&path, &bare).unwrap().predicted_kld, None);
}

#[test]
fn damaged_plan_files() {
    let analysis = small();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    let good = plan(&analysis, Target::Pure(Q4_K));
    let check = |edit: &dyn Fn(&mut serde_json::Value), part: &str| {
        let mut json = serde_json::to_value(&good).unwrap();
        edit(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        let text = format!("{:#}", Plan::read(&path, &analysis).unwrap_err());
        assert!(text.contains(part) && text.contains("plan.json"), "{text}");
    };
    let q = "blk.0.attn_q.weight";
    check(
        &|json| drop(json["tensors"].as_object_mut().unwrap().remove(q)),
        "no type for the tensor: `blk.0.attn_q.weight`",
    );
    check(&|json| json["tensors"]["x.weight"] = json["tensors"][q].clone(), "not in the model: `x.weight`");
    check(&|json| json["tensors"]["output_norm.weight"] = json["tensors"][q].clone(), "never quantized");
    check(&|json| json["tensors"][q]["type"] = "Q9_K".into(), "unknown tensor type: `Q9_K`");
    check(
        &|json| json["tensors"]["blk.0.ffn_down.weight"]["type"] = "Q4_K".into(),
        "rows of 2880 weights do not fit Q4_K",
    );
    check(&|json| json["version"] = 9.into(), "plan version 9");
    check(&|json| *json = "text".into(), "not a plan file");
    // An edit by hand is honoured and counted.
    let mut json = serde_json::to_value(&good).unwrap();
    json["tensors"][q]["type"] = "Q6_K".into();
    std::fs::write(&path, json.to_string()).unwrap();
    let edited = Plan::read(&path, &analysis).unwrap();
    assert_eq!(edited.ty(q), Some(Q6_K));
    assert_eq!(edited.bytes - good.bytes, 64 * 512 / 256 * (210 - 144));
    assert_ne!(edited.hash, good.hash);
    assert!(Plan::read(&folder.path().join("none.json"), &analysis).is_err());
}

#[test]
fn damaged_analysis_files() {
    let check = |edit: &dyn Fn(&mut Analysis), part: &str| {
        let mut analysis = small();
        edit(&mut analysis);
        let text = error(&analysis, Target::Bpw(4.0), &Constraints::default());
        assert!(text.contains(part), "{text}");
    };
    check(&|a| a.version = 7, "analysis version 7");
    check(&|a| a.tensors.clear(), "no tensors");
    check(&|a| a.tensors[1].name = "token_embd.weight".to_owned(), "appears twice");
    check(&|a| a.tensors[1].candidates[0].predicted = f64::NAN, "the predicted KL of the candidate Q2_K is NaN");
    check(&|a| a.tensors[1].candidates[0].error = -1.0, "error of the candidate");
    check(&|a| a.tensors[1].candidates[0].bytes += 1, "has 10752 bytes, not 10753");
    check(&|a| a.tensors[1].candidates[1].ty = Q2_K, "appears twice");
    check(&|a| a.tensors[2].candidates[0].ty = Q4_K, "do not fit the candidate Q4_K");
    check(&|a| a.tensors[1].dims = vec![512, 63], "do not agree");
    check(&|a| a.tensors[1].dims = vec![u64::MAX, 63], "too large");
    check(&|a| a.ties = vec![vec!["x".to_owned()]], "unknown tensor: `x`");
}

#[test]
fn tensor_types_for_llama_quantize() {
    let plan = plan(&small(), Target::Type(Ftype::Q4_K_M));
    let text = plan.to_tensor_types().unwrap();
    let lines: BTreeMap<&str, &str> = text.lines().map(|line| line.split_once('=').unwrap()).collect();
    assert_eq!(lines[r"^token_embd\.weight$"], "q6_k");
    assert_eq!(lines[r"^blk\.0\.ffn_down\.weight$"], "q8_0");
    assert_eq!(lines.len(), 3);
    // Each line matches its own tensor only.
    for pattern in lines.keys() {
        let regex = regex::Regex::new(pattern).unwrap();
        assert_eq!(plan.tensors.keys().filter(|name| regex.is_match(name)).count(), 1);
    }
}

#[test]
fn a_plan_is_told_by_class_and_depth() {
    let analysis = deepseek();
    let plan = plan(&analysis, Target::Bpw(3.0));
    let groups = report::groups(&analysis, &plan);
    let total = |of: &dyn Fn(&report::Group) -> f64| groups.iter().map(of).sum::<f64>();
    let quantizable: u64 = plan.tensors.values().map(|tensor| tensor.bytes).sum();
    assert_eq!(total(&|group| group.bytes as f64), quantizable as f64);
    assert_eq!(total(&|group| group.tensors as f64), plan.tensors.len() as f64);
    assert!((total(&|group| group.share.unwrap()) - 1.0).abs() < 1e-9);
    let named = |class: &str| groups.iter().filter(|group| group.class == class).collect::<Vec<_>>();
    assert_eq!(named("token_embd")[0].layers, None);
    let bands: Vec<_> = named("attn_q_a").iter().map(|group| group.layers.unwrap()).collect();
    assert_eq!(bands, [(0, 15), (16, 31), (32, 47), (48, 60)]);
    let band = named("ffn_down_exps")[3];
    assert_eq!((band.tensors, band.types.values().sum::<usize>()), (13, 13));
    let mut bytes = 0;
    for layer in 48..61 {
        bytes += plan.tensors[&format!("blk.{layer}.ffn_down_exps.weight")].bytes;
    }
    assert_eq!(band.bytes, bytes);

    let worst = report::worst(&plan);
    assert!(worst.windows(2).all(|pair| pair[0].predicted_kld >= pair[1].predicted_kld));
    let most = plan.tensors.values().map(|tensor| tensor.predicted.unwrap()).fold(0.0, f64::max);
    assert_eq!(worst[0].predicted_kld, most);
}

#[test]
fn one_percent_of_the_bytes_has_its_price() {
    let analysis = deepseek();
    let constraints = Constraints::default();
    let now = plan(&analysis, Target::Bpw(3.0));
    let [less, more] = report::neighbours(&analysis, &now, &constraints, Objective::Mean).map(Option::unwrap);
    let nats = now.predicted_kld.unwrap();
    assert!(more.bytes > now.bytes && more.bytes <= now.bytes + now.bytes / 100 && more.predicted_kld < nats);
    assert!(less.bytes <= now.bytes - now.bytes / 100 && less.predicted_kld > nats);
    // nothing below the smallest plan nor above the largest, and no advice on what is no best plan
    let (least, most) = range(&analysis);
    let of = |target| {
        report::neighbours(&analysis, &plan(&analysis, target), &constraints, Objective::Mean)
            .map(|other| other.is_some())
    };
    assert_eq!(of(Target::Size(least)), [false, true]);
    assert_eq!(of(Target::Size(most)), [true, false]);
    assert_eq!(of(Target::Pure(Q4_K)), [false, false]);
}
