//! Numbers from files: each has a range, and sums of them do not wrap.

use std::collections::BTreeMap;
use std::fs;

use dq_gpu::gguf::{GgufFile, GgufWriter, TensorPlan, Value};
use dq_gpu::imatrix::{Entry, Imatrix};
use dq_gpu::plan::{Analysis, Candidate, Constraints, Plan, RunShape, Target, TensorAnalysis, solve};
use dq_gpu::quant::GgmlType;
use dq_gpu::source::{Model, Tensor};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::model::{Folder, message, quantize, refusal, says};

fn llama() -> Folder {
    Folder::of("llama-f32")
}

#[test]
fn numbers_of_a_config_have_a_range() {
    let rope = |key: &str, value: Json| {
        let mut settings = json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256});
        settings[key] = value;
        settings
    };
    let cases = [
        ("rms_norm_eps", json!(1e30), "`rms_norm_eps` is 1000000000000000000000000000000, which is not from 0 to 0.1"),
        ("rms_norm_eps", json!(-1e-6), "`rms_norm_eps` is -0.000001, which is not"),
        ("num_attention_heads", json!(1 << 20), "`num_attention_heads` is 1048576, which is not from 1 to 65536"),
        ("head_dim", json!(4_000_000), "`head_dim` is 4000000, which is not"),
        ("hidden_size", json!(u32::MAX), "`hidden_size` is 4294967295, which is not"),
        ("vocab_size", json!(u32::MAX), "`vocab_size` is 4294967295, which is not"),
        ("rope_parameters", json!({"rope_theta": 1e300}), "`rope_theta` is 1000"),
        ("rope_parameters", json!({"rope_theta": 0.0}), "`rope_theta` is 0, which is not"),
        ("rope_parameters", json!({"rope_theta": 1.0}), "`rope_theta` is 1, which is not"),
        ("rope_parameters", rope("factor", json!(1e-30)), "`factor` is 0.0000"),
        ("rope_parameters", rope("factor", json!(-1.0)), "`factor` is -1, which is not"),
        ("rope_parameters", rope("beta_fast", json!(1e38)), "`beta_fast` is 1000"),
        ("rope_parameters", rope("attention_factor", json!(1e200)), "`attention_factor` is 1000"),
        (
            "rope_parameters",
            rope("original_max_position_embeddings", json!(0)),
            "`original_max_position_embeddings` is 0",
        ),
    ];
    for (key, value, part) in cases {
        let folder = llama().set(key, value).write();
        says(&folder.refused(), &[part, "config.json"]);
    }
    // JSON has no infinity; Python writes it nevertheless
    let with_infinity = |key: &str| {
        let folder = llama().set(key, json!("here")).write();
        let text = fs::read_to_string(folder.at("config.json")).unwrap().replace("\"here\"", "Infinity");
        assert!(text.contains("Infinity"));
        fs::write(folder.at("config.json"), text).unwrap();
        folder
    };
    says(&with_infinity("rms_norm_eps").refused(), &["`rms_norm_eps` is not a number", "config.json"]);
    // where nothing reads it, it does not matter
    Model::open(with_infinity("initializer_range").path()).unwrap();
}

/// A GGUF of the small model with another value under one key.
fn with_key(model: &Model, key: &str, value: Value, folder: &TempDir) -> String {
    let path = folder.path().join("m.gguf");
    let mut metadata = model.metadata.clone();
    metadata.set(key, value);
    let plans: Vec<TensorPlan> = model.tensors.iter().map(Tensor::plan).collect();
    let mut writer = GgufWriter::new(&path, &metadata, &plans).unwrap();
    for tensor in &model.tensors {
        writer.write_tensor(&tensor.name, &model.bytes(tensor).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn numbers_of_metadata_have_a_range() {
    let source = llama().write();
    let model = Model::open(source.path()).unwrap();
    let folder = TempDir::new().unwrap();
    let eps = "llama.attention.layer_norm_rms_epsilon";
    let cases = [
        (eps, Value::F32(f32::INFINITY), "inf, which is not from 0 to 0.1"),
        (eps, Value::F32(f32::NAN), "NaN, which is not"),
        (eps, Value::F32(1e20), "100000002004087730000, which is not"),
        (eps, Value::F64(1e300), "inf, which is not"),
        (eps, Value::F32(-1e-5), "which is not"),
        ("llama.rope.freq_base", Value::F32(f32::INFINITY), "inf, which is not"),
        ("llama.rope.freq_base", Value::F32(f32::NAN), "NaN, which is not"),
        ("llama.rope.freq_base", Value::F32(0.0), "0, which is not"),
        ("llama.rope.scaling.factor", Value::F32(f32::INFINITY), "inf, which is not"),
        ("llama.rope.scaling.factor", Value::F32(-2.0), "-2, which is not"),
        ("llama.rope.scale_linear", Value::F32(f32::NAN), "NaN, which is not"),
        ("llama.rope.scaling.attn_factor", Value::F32(f32::INFINITY), "inf, which is not"),
        ("llama.rope.scaling.attn_factor", Value::F32(0.0), "0, which is not"),
        ("llama.block_count", Value::U32(1 << 24), "16777216, which is not from 1 to 65536"),
        ("llama.attention.head_count", Value::U32(u32::MAX), "4294967295, which is not"),
        ("llama.attention.key_length", Value::U32(1 << 30), "1073741824, which is not"),
    ];
    for (key, value, part) in cases {
        let path = with_key(&model, key, value.clone(), &folder);
        says(&message(Model::open(path.as_ref())), &[part, &format!("`{key}`"), "m.gguf"]);
    }
    let path = with_key(&model, "llama.block_count", Value::U32(65_000), &folder);
    says(&message(Model::open(path.as_ref())), &["65000 layers", "holds 21 tensors", "m.gguf"]);
    // a number that llama.cpp's models do have
    let path = with_key(&model, "llama.rope.freq_base", Value::F32(1e9), &folder);
    assert_eq!(Model::open(path.as_ref()).unwrap().hparams.rope.freq_base, 1e9);
}

fn analysis() -> Analysis {
    let mut tensor = TensorAnalysis::new("blk.0.ffn_up.weight", &[256, 64], GgmlType::BF16, true);
    for (ty, predicted) in [(GgmlType::Q4_K, 0.5), (GgmlType::Q2_K, 40.0), (GgmlType::BF16, 0.0)] {
        tensor.candidates.push(Candidate { ty, bytes: tensor.bytes_as(ty).unwrap(), error: predicted, predicted });
    }
    Analysis { version: 1, fixed_bytes: 1000, tensors: vec![tensor], ..Analysis::default() }
}

#[test]
fn a_prediction_beyond_all_knowledge_is_bounded_and_one_that_is_no_number_refused() {
    let predicted = |analysis: &Analysis, ty| analysis.tensors[0].predicted(ty).unwrap();
    let mut good = analysis();
    let most = 320f64.ln();
    good.bound_predictions(most).unwrap();
    let found = [GgmlType::Q4_K, GgmlType::Q2_K, GgmlType::BF16].map(|ty| predicted(&good, ty));
    assert_eq!(found, [0.5, most, 0.0]);
    for wrong in [f64::NAN, f64::INFINITY, -1.0] {
        let mut bad = analysis();
        bad.tensors[0].candidates[1].predicted = wrong;
        let said = bad.bound_predictions(most).unwrap_err().to_string();
        says(&said, &["`blk.0.ffn_up.weight` in Q2_K", "`--sensitivity probes`"]);
        says(&message(solve(&bad, &Target::Bpw(5.0), &Constraints::default())), &["blk.0.ffn_up.weight"]);
    }
}

#[test]
fn sizes_of_an_analysis_do_not_wrap() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.json");
    let read = |change: &dyn Fn(&mut Json)| {
        let mut json = serde_json::to_value(analysis()).unwrap();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        Analysis::read(&path)
    };
    assert_eq!(read(&|_| {}).unwrap(), analysis());
    let huge = |json: &mut Json, dims: [u64; 2]| {
        let tensor = &mut json["tensors"][0];
        (tensor["dims"], tensor["cols"], tensor["rows"]) = (json!(dims), json!(dims[0]), json!(dims[1]));
        tensor["candidates"] = json!([]);
    };
    for dims in [[1 << 32, 1 << 32], [1 << 62, 2], [256, 1 << 54], [u64::MAX, 1]] {
        says(&message(read(&|json| huge(json, dims))), &["blk.0.ffn_up.weight", "empty or too large", "a.json"]);
    }
    says(&message(read(&|json| json["fixed_bytes"] = json!(u64::MAX))), &["fixed bytes", "a.json"]);
    let many = |json: &mut Json| {
        huge(json, [256, 1 << 41]);
        let tensors: Vec<Json> = (0..8)
            .map(|layer| {
                let mut tensor = json["tensors"][0].clone();
                tensor["name"] = json!(format!("blk.{layer}.ffn_up.weight"));
                tensor
            })
            .collect();
        json["tensors"] = json!(tensors);
    };
    says(&message(read(&many)), &["all tensors together", "a.json"]);

    let plan = folder.path().join("p.json");
    let made = solve(&analysis(), &Target::Bpw(6.0), &Constraints::default()).unwrap();
    made.write(&plan).unwrap();
    let text = fs::read_to_string(&plan).unwrap();
    let mut json: Json = serde_json::from_str(&text).unwrap();
    json["tensors"]["blk.0.ffn_up.weight"]["predicted"] = json!(-3.0);
    fs::write(&plan, json.to_string()).unwrap();
    says(&message(Plan::read(&plan, &analysis())), &["predicted KL of tensor `blk.0.ffn_up.weight`", "p.json"]);
    // sizes in the file are not believed
    let mut json: Json = serde_json::from_str(&text).unwrap();
    (json["bytes"], json["tensors"]["blk.0.ffn_up.weight"]["bytes"]) = (json!(u64::MAX), json!(u64::MAX));
    fs::write(&plan, json.to_string()).unwrap();
    assert_eq!(Plan::read(&plan, &analysis()).unwrap().bytes, made.bytes);
}

#[test]
fn a_shape_of_any_numbers_gives_a_sentence() {
    let most = u64::MAX;
    let shape =
        RunShape { full_layers: most, windowed_layers: most, window: most, kv_width: most, ..RunShape::default() };
    assert_eq!(shape.kv_bytes(4096), most);
    assert!(shape.budget(8 << 30, 4096).is_err() && shape.budget(8 << 30, most).is_err());
    // a name with the number of no layer is of none
    let mut shaped = analysis();
    shaped.shape.block_count = u32::MAX;
    shaped.tensors[0].name = format!("blk.{most}.ffn_down.weight");
    assert!(solve(&shaped, &Target::Bpw(5.0), &Constraints::default()).is_ok());
}

#[test]
fn merged_importance_stays_finite_or_is_refused() {
    const NAME: &str = "blk.0.ffn_up.weight";
    let huge = |count: f64| {
        let entry = Entry { sum2: vec![3e38, 1.0], sum: None, counts: vec![count] };
        Imatrix { entries: BTreeMap::from([(NAME.to_owned(), entry)]), chunk_size: 1, ..Imatrix::default() }
    };
    let folder = TempDir::new().unwrap();
    let mut merged = huge(1.0);
    merged.merge(&huge(1.0)).unwrap();
    // the mean is that of both, but the sums are no f32
    assert_eq!(merged.mean2(NAME), huge(1.0).mean2(NAME));
    says(&message(merged.write_gguf(&folder.path().join("m.gguf"))), &["too large", NAME]);
    says(&message(merged.write_dat(&folder.path().join("m.dat"))), &["too large", NAME]);
    says(&message(huge(1e12).write_dat(&folder.path().join("m.dat"))), &["too large", "1000000000000"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let mut legacy = Imatrix { chunk_size: 0, ..huge(1e308) };
    says(&message(legacy.merge(&Imatrix { chunk_size: 512, ..huge(1.0) })), &[NAME]);
    says(&message(huge(1e-30).validate()), &[NAME, "a mean is too large"]);
}

#[test]
fn rows_too_narrow_for_small_types_are_the_reason_told() {
    let folder = llama().write();
    let said = refusal(folder.path(), &["--bpw", "3"]);
    says(
        &said,
        &["the smallest possible plan has", "of the weights are in rows that are no multiple of 256 wide (32 in `"],
    );
    let said = refusal(folder.path(), &["--size", "20000B"]);
    says(&said, &["the smallest possible file has", "no multiple of 256 wide (32 in `"]);
    // where they fit, nothing is said of them
    let said = message(solve(&analysis(), &Target::Bpw(1.0), &Constraints::default()));
    assert!(said.contains("smallest possible plan") && !said.contains("256"), "{said}");
}

#[test]
fn metadata_of_a_written_file_are_what_was_used() {
    let folder = llama().write();
    let keys = |file: &str| -> Vec<String> {
        let file = GgufFile::open(&folder.at(file)).unwrap();
        let keys = file.metadata.iter().map(|(key, _)| key.to_owned());
        keys.filter(|key| key.starts_with("quantize.imatrix.")).collect()
    };
    quantize(folder.path(), &folder.at("q8.gguf"), &["--pure", "Q8_0"]);
    assert_eq!(keys("q8.gguf").len(), 4);
    // nothing is encoded by importance, so none is claimed; nor that of a source
    quantize(folder.path(), &folder.at("f16.gguf"), &["--type", "F16"]);
    assert_eq!(keys("f16.gguf"), [""; 0]);
    quantize(&folder.at("q8.gguf"), &folder.at("f32.gguf"), &["--pure", "F32"]);
    assert_eq!(keys("f32.gguf"), [""; 0]);
}
