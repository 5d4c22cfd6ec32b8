//! llama.cpp's mixture rules, against the types that llama.cpp itself gives twelve real and ten made-up models (`tests/data/mixes`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dq_gpu::arch::tensor_class::may_quantize;
use dq_gpu::plan::mixes::{self, MixOptions, ModelShape, TensorShape};
use dq_gpu::plan::{Ftype, Mix};
use dq_gpu::quant::{self, GgmlType};

/// A model's shapes and, per file type, the types that differ from its default.
struct Snapshot {
    model: ModelShape,
    has_imatrix: bool,
    tensors: Vec<(String, Vec<u64>)>,
    expected: Vec<(Ftype, BTreeMap<String, GgmlType>)>,
}

impl Snapshot {
    fn read(path: &Path) -> Snapshot {
        let text = fs::read_to_string(path).unwrap();
        let (mut model, mut has_imatrix) = (ModelShape::default(), false);
        let mut layers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut tensors = Vec::new();
        let mut expected: Vec<(Ftype, BTreeMap<String, GgmlType>)> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["model", architecture, block_count, head_count, head_count_kv, expert_count] => {
                    model.architecture = architecture.to_owned();
                    model.block_count = block_count.parse().unwrap();
                    model.head_count = head_count.parse().unwrap();
                    model.head_count_kv = head_count_kv.parse().unwrap();
                    model.expert_count = expert_count.parse().unwrap();
                }
                ["tensor", name, cols, matrices, range] => {
                    let names = names(name, range);
                    let dims = vec![cols.parse().unwrap(), 64, matrices.parse().unwrap()];
                    tensors.extend(names.iter().map(|name| (name.clone(), dims.clone())));
                    layers.insert(name, names);
                }
                ["imatrix"] => has_imatrix = true,
                [section, default] => {
                    let ftype: Ftype = section.trim_matches(['[', ']']).parse().unwrap();
                    assert_eq!(ftype.default_type(), GgmlType::from_name(default).unwrap());
                    let default = ftype.default_type();
                    expected.push((ftype, tensors.iter().map(|(name, _)| (name.clone(), default)).collect()));
                }
                [name, ty, range] => {
                    let named = if range == "*" { layers[name].clone() } else { names(name, range) };
                    let (_, types) = expected.last_mut().unwrap();
                    for name in named {
                        *types.get_mut(&name).expect("only known tensors") = GgmlType::from_name(ty).unwrap();
                    }
                }
                _ => panic!("cannot read the line: `{line}`"),
            }
        }
        Snapshot { model, has_imatrix, tensors, expected }
    }

    fn load(name: &str) -> Snapshot {
        Snapshot::read(&folder().join(format!("{name}.txt")))
    }

    fn shapes(&self) -> Vec<TensorShape<'_>> {
        self.tensors.iter().map(|(name, dims)| TensorShape { name, dims }).collect()
    }

    fn mix(&self, ftype: Ftype, options: MixOptions) -> Mix {
        mixes::mix(ftype, &self.model, &self.shapes(), options).unwrap()
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mixes")
}

/// `0-2,5` gives `blk.0.NAME.weight` ...; `-` a tensor outside the layers.
fn names(name: &str, range: &str) -> Vec<String> {
    if range == "-" {
        return vec![format!("{name}.weight")];
    }
    let mut names = Vec::new();
    for part in range.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let layers = first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap();
        names.extend(layers.map(|layer| format!("blk.{layer}.{name}.weight")));
    }
    names
}

#[test]
fn every_file_type_of_every_snapshot() {
    let (mut models, mut sections, mut compared) = (0, 0, 0);
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let snapshot = Snapshot::read(&path);
        models += 1;
        for (ftype, expected) in &snapshot.expected {
            let options = MixOptions { has_imatrix: snapshot.has_imatrix, ..MixOptions::default() };
            let mix = snapshot.mix(*ftype, options);
            let wrong: Vec<String> = expected
                .iter()
                .filter(|(name, ty)| mix.types.get(*name) != Some(ty))
                .map(|(name, ty)| format!("{name}: {ty} expected, got {:?}", mix.types.get(name)))
                .collect();
            assert!(wrong.is_empty(), "{} {ftype}:\n{}", path.display(), wrong.join("\n"));
            assert_eq!(mix.types.len(), expected.len());
            sections += 1;
            compared += expected.len();
        }
    }
    // Twelve real models, ten made up to reach rules that those do not, four with importance data.
    assert_eq!(models, 26);
    assert!(sections >= 26 * 33 && compared > 150_000, "{sections} {compared}");
}

#[test]
fn importance_data_changes_the_documented_rules() {
    let snapshot = Snapshot::load("qwen3-0.6b");
    let with = MixOptions { has_imatrix: true, ..MixOptions::default() };
    let down = |mix: &Mix, layer: u32| mix.types[&format!("blk.{layer}.ffn_down.weight")];
    let value = |mix: &Mix| mix.types["blk.9.attn_v.weight"];

    let (plain, guided) = (snapshot.mix(Ftype::Q4_0, MixOptions::default()), snapshot.mix(Ftype::Q4_0, with));
    assert_eq!((down(&plain, 0), down(&guided, 2), down(&guided, 3)), (GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q4_0));
    assert_eq!(down(&snapshot.mix(Ftype::Q5_0, with), 0), GgmlType::Q5_1);

    let (plain, guided) = (snapshot.mix(Ftype::IQ4_XS, MixOptions::default()), snapshot.mix(Ftype::IQ4_XS, with));
    assert_eq!((down(&plain, 0), down(&guided, 0)), (GgmlType::Q5_K, GgmlType::IQ4_XS));

    let (plain, guided) = (snapshot.mix(Ftype::IQ3_XXS, MixOptions::default()), snapshot.mix(Ftype::IQ3_XXS, with));
    assert_eq!((down(&plain, 20), down(&guided, 20)), (GgmlType::Q3_K, GgmlType::IQ3_XXS));
    assert_eq!((value(&plain), value(&guided)), (GgmlType::IQ3_S, GgmlType::IQ3_XXS));
}

#[test]
fn which_tensors_need_importance_data() {
    let snapshot = Snapshot::load("qwen3-0.6b");
    assert!(snapshot.mix(Ftype::Q4_K_M, MixOptions::default()).need_imatrix.is_empty());
    assert!(snapshot.mix(Ftype::Q2_K, MixOptions::default()).need_imatrix.is_empty());
    let q2_k_s = snapshot.mix(Ftype::Q2_K_S, MixOptions::default());
    assert!(q2_k_s.need_imatrix.contains(&"blk.5.attn_q.weight".to_owned()));
    // Neither the head nor the embedding, even if forced to such a type.
    let pure = snapshot.mix(Ftype::IQ2_XXS, MixOptions { pure: true, ..MixOptions::default() });
    assert_eq!(pure.types["token_embd.weight"], GgmlType::IQ2_XXS);
    assert_eq!(pure.need_imatrix.len(), pure.types.len() - 2);
}

#[test]
fn pure_gives_one_type_and_reports_fallbacks() {
    let options = MixOptions { pure: true, ..MixOptions::default() };
    let dense = Snapshot::load("qwen3-14b").mix(Ftype::Q4_K_S, options);
    assert_eq!(dense.types_used().into_iter().collect::<Vec<_>>(), [GgmlType::Q4_K]);
    assert!(dense.fallbacks.is_empty());

    let odd = Snapshot::load("gpt-oss-120b").mix(Ftype::Q4_K_S, options);
    assert_eq!(odd.types["blk.0.attn_q.weight"], GgmlType::Q5_0);
    assert_eq!(odd.types["blk.0.attn_output.weight"], GgmlType::Q4_K);
    assert!(odd.fallbacks.iter().all(|f| (f.wanted, f.used) == (GgmlType::Q4_K, GgmlType::Q5_0)));
    assert!(odd.fallbacks.iter().any(|f| f.tensor == "output.weight"));
}

#[test]
fn pinned_tensors_leave_the_layer_count() {
    let snapshot = Snapshot::load("qwen3-0.6b");
    let pinned = |name: &str| (name == "blk.0.attn_v.weight").then_some(GgmlType::Q8_0);
    let mix = snapshot.mix(Ftype::Q3_K_M, MixOptions { pinned: Some(&pinned), ..MixOptions::default() });
    let value = |layer: u32| mix.types[&format!("blk.{layer}.attn_v.weight")];
    // The first two that the rules see are raised: layers 1 and 2, as in llama-quantize.
    assert_eq!([0, 1, 2, 3].map(value), [GgmlType::Q8_0, GgmlType::Q5_K, GgmlType::Q5_K, GgmlType::Q4_K]);
}

#[test]
fn fallbacks_follow_the_shape() {
    use GgmlType::*;
    for (ty, cols, expected) in [
        (Q4_K, 2880, Q5_0),
        (Q5_K, 2880, Q5_1),
        (Q6_K, 2880, Q8_0),
        (Q2_K, 2880, Q4_0),
        (IQ2_XXS, 2880, IQ4_NL),
        (IQ4_XS, 128, IQ4_NL),
        (Q4_K, 100, F16),
        (Q8_0, 100, F16),
        (Q4_K, 512, Q4_K),
    ] {
        assert_eq!(quant::fallback(ty, cols).unwrap(), expected, "{ty} {cols}");
    }
    assert!(quant::fallback(Q1_0, 64).is_err());
}

#[test]
fn what_is_never_quantized() {
    let may = |name: &str, dims: &[u64]| may_quantize(name, dims, "llama");
    assert!(may("blk.0.attn_q.weight", &[64, 64]) && may("token_embd.weight", &[64, 100]));
    assert!(!may("output_norm.weight", &[64]) && !may("blk.0.attn_q_norm.weight", &[64, 4]));
    assert!(!may("blk.0.ffn_gate_inp.weight", &[64, 8]) && may("blk.0.ffn_gate_exps.weight", &[64, 32, 8]));
    assert!(!may("blk.0.attn_q.bias", &[64]) && !may("x.weight", &[64, 1]) && !may("blk.0.ssm_a", &[4, 64]));
    assert!(may_quantize("blk.0.attn_k_b.weight", &[128, 512, 8], "llama"));
    assert!(!may_quantize("blk.0.attn_k_b.weight", &[128, 512, 8], "glm5-next"));
}

#[test]
fn shapes_come_from_metadata() {
    let keys = BTreeMap::from([("qwen3.block_count", 28), ("qwen3.attention.head_count", 16)]);
    let shape = ModelShape::from_keys("qwen3", |key| keys.get(key).copied()).unwrap();
    assert_eq!((shape.block_count, shape.head_count, shape.head_count_kv, shape.expert_count), (28, 16, 16, 0));
    let error = ModelShape::from_keys("llama", |key| keys.get(key).copied()).unwrap_err().to_string();
    assert!(error.contains("`llama.block_count`"), "{error}");
}

#[test]
fn names_and_ids() {
    assert_eq!("q4_k".parse::<Ftype>().unwrap(), Ftype::Q4_K_M);
    assert_eq!("Q3_K".parse::<Ftype>().unwrap().id(), 12);
    assert_eq!("iq4_xs".parse::<Ftype>().unwrap().id(), 30);
    assert_eq!(Ftype::from_id(38), Some(Ftype::MXFP4_MOE));
    assert_eq!(Ftype::from_id(39), None);
    assert!("Q4_K_XL".parse::<Ftype>().unwrap_err().to_string().contains("Q4_K_M"));
    for &ftype in Ftype::ALL {
        assert_eq!(Ftype::from_id(ftype.id()), Some(ftype));
    }
}

#[test]
fn a_mix_is_nearest_to_itself() {
    for name in ["qwen3-0.6b", "gpt-oss-120b"] {
        let snapshot = Snapshot::load(name);
        let with = MixOptions { has_imatrix: true, ..MixOptions::default() };
        for &ftype in Ftype::ALL {
            let Ok(mix) = mixes::mix(ftype, &snapshot.model, &snapshot.shapes(), with) else { continue };
            let nearest = mixes::nearest_ftype(&mix.types, &snapshot.model, &snapshot.shapes());
            // Some mixes coincide on some models; then the lower id is named.
            let same = snapshot.mix(nearest, with).types == mix.types;
            assert!(same, "{name}: {ftype} is taken for {nearest}");
        }
    }
}
