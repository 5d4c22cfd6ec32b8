//! Whole commands on small models: what they write, print and store.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use assert_cmd::Command;
use dq_gpu::gguf::GgufFile;
use dq_gpu::plan::mixes::{self, MixOptions, ModelShape, TensorShape};
use dq_gpu::plan::vram::DRIVER_BYTES;
use dq_gpu::plan::{Analysis, Ftype, Plan, RunShape};
use dq_gpu::quant::GgmlType;
use dq_gpu::source::Model;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// F16, tied, 2 layers; rows of 64 weights fit types of blocks of 32 and 64 only.
const SMALL: &str = "tests/fixtures/models/llama-tied";
/// BF16, trained, 8 layers; rows of 256 and 768 weights fit every type.
const TRAINED: &str = "models/tiny-llama";
/// Little text, and the device that is everywhere.
const QUICK: [&str; 6] = ["--device", "cpu", "--ctx", "64", "--chunks", "4"];

/// Where a test writes.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

/// What a command prints as JSON; notes and warnings are failures.
fn run(args: &[&str]) -> Value {
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    let output = command.args(args).arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{args:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `quantize MODEL OPTIONS -o OUTPUT` with little text.
fn quantize(model: &str, options: &[&str], output: &str) -> Value {
    run(&[&["quantize", model, "-o", output], &QUICK[..], options].concat())
}

fn open(file: &str) -> GgufFile {
    GgufFile::open(Path::new(file)).unwrap()
}

fn figure(report: &Value, key: &str) -> f64 {
    let figure = report[key].as_f64().unwrap_or_else(|| panic!("no number under {key}: {report}"));
    assert!(figure.is_finite(), "{key}: {report}");
    figure
}

fn keys(report: &Value) -> Vec<&str> {
    report.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Type of every matrix in a file.
fn matrices(file: &GgufFile) -> BTreeMap<String, GgmlType> {
    let matrices = file.tensors.iter().filter(|tensor| tensor.dims.len() > 1);
    matrices.map(|tensor| (tensor.name.clone(), tensor.ty)).collect()
}

fn assert_same_tensors(a: &GgufFile, b: &GgufFile) {
    assert_eq!(a.tensors.len(), b.tensors.len());
    for tensor in &a.tensors {
        let other = b.tensor(&tensor.name).unwrap_or_else(|| panic!("no {}", tensor.name));
        assert_eq!((tensor.ty, &tensor.dims), (other.ty, &other.dims), "{}", tensor.name);
        assert!(a.data(tensor).unwrap() == b.data(other).unwrap(), "other bytes in {}", tensor.name);
    }
}

/// With text left that rounding has not seen, the file is compared with the plain encoding of its plan.
#[test]
fn rounding_must_lower_the_kl() {
    let folder = Folder::new();
    let output = folder.at("out.gguf");
    let options = ["--device", "cpu", "--ctx", "64", "--chunks", "420", "--pure", "Q4_0"];
    let report = run(&[&["quantize", SMALL, "-o", &output], &options[..]].concat());
    let (rounded, plain) = (figure(&report["rounding"], "rounded"), figure(&report["rounding"], "plain"));
    assert!(0.0 < rounded && rounded < plain, "{report}");
    assert_eq!(report["rounding"]["tokens"], 36 * 64, "what is left of 420 chunks after 24,576 tokens");
    assert_eq!(keys(&report["seconds"]), ["importance", "sensitivity", "plan", "write", "guard", "prove"]);

    let alone = folder.at("alone.gguf");
    let report =
        run(&[&["quantize", SMALL, "-o", &alone, "--rounding", "search", "--effort", "fast"], &options[..]].concat());
    assert_eq!(report["rounding"], Value::Null);
    let measured = |file: &str| figure(&run(&[&["kld", SMALL, file], &QUICK[..]].concat()), "mean_kld");
    assert!(measured(&output) < measured(&alone));
}

#[test]
fn the_report_agrees_with_the_file() {
    let folder = Folder::new();
    let options = ["--bpw", "6", "--types", "Q4_0,Q5_0,Q8_0"];
    let (output, again) = (folder.at("out.gguf"), folder.at("again.gguf"));
    let report = quantize(SMALL, &options, &output);
    let file = open(&output);
    let summary = file.summary();

    assert_eq!(report["output"], output.as_str());
    assert_eq!(report["bytes"], fs::metadata(&output).unwrap().len());
    assert!(figure(&report, "bpw") <= 6.0 && (figure(&report, "bpw") - summary.bpw).abs() < 1e-9);
    assert!(figure(&report, "predicted_kld") > 0.0 && figure(&report, "measured_kld") > 0.0);
    assert_eq!(keys(&report["seconds"]), ["importance", "sensitivity", "weigh", "plan", "write", "prove"]);
    assert!(keys(&report["seconds"]).iter().all(|step| figure(&report["seconds"], step) >= 0.0));
    let types = report["types"].as_object().unwrap();
    let sum = |key: &str| -> u64 { types.values().map(|share| share[key].as_u64().unwrap()).sum() };
    assert_eq!((sum("count"), sum("bytes")), (file.tensors.len() as u64, summary.tensor_bytes));
    for (name, share) in types {
        let tensors = file.tensors.iter().filter(|tensor| tensor.ty.name() == name);
        assert_eq!(share["count"], tensors.count(), "{name}");
    }
    assert_eq!(report["fallbacks"], Value::Array(Vec::new()));

    let metadata = &file.metadata;
    let written: BTreeMap<String, GgmlType> = matrices(&file).into_iter().filter(|(_, ty)| ty.is_quantized()).collect();
    assert_eq!(metadata.str("dq_gpu.plan_hash"), Some(Plan::hash_of(&written).as_str()));
    assert_eq!(metadata.f32("dq_gpu.kld.mean"), Some(figure(&report, "measured_kld") as f32));
    assert_eq!(metadata.u32("dq_gpu.kld.tokens").map(Value::from), Some(report["tokens"].clone()));
    assert_eq!(metadata.u32("general.quantization_version"), Some(2));
    assert_eq!(metadata.str("quantize.imatrix.dataset"), Some("dq-gpu built-in"));
    assert_eq!(metadata.u32("quantize.imatrix.chunks_count"), Some(4));
    assert!(metadata.u32("quantize.imatrix.entries_count").is_some_and(|count| count >= 14));
    assert!(metadata.contains("quantize.imatrix.file") && metadata.contains("general.file_type"));
    assert!(["dq_gpu.calibration_hash", "dq_gpu.heldout_hash"].iter().all(|key| metadata.str(key) != Some("")));

    // what was measured can be measured again, and what was made be made again
    let measured = run(&[&["kld", SMALL, &output], &QUICK[..]].concat());
    assert_eq!(measured["mean_kld"], report["measured_kld"]);
    assert_eq!(measured["same_top"], report["same_top"]);
    quantize(SMALL, &options, &again);
    assert!(fs::read(&output).unwrap() == fs::read(&again).unwrap(), "the same command made other bytes");
}

#[test]
fn a_size_is_never_exceeded() {
    let folder = Folder::new();
    let pure = |ty: &str| quantize(SMALL, &["--pure", ty], &folder.at("pure.gguf"))["bytes"].as_u64().unwrap();
    let (least, most) = (pure("Q4_0"), pure("Q8_0"));
    for size in [least, least + (most - least) / 3, most - 1] {
        let output = folder.at("sized.gguf");
        let report = quantize(SMALL, &["--size", &format!("{size}B"), "--types", "Q4_0,Q5_0,Q8_0"], &output);
        let bytes = fs::metadata(&output).unwrap().len();
        assert_eq!(report["bytes"], bytes);
        // every matrix that could be larger is too large by less than this
        assert!(bytes <= size && size - bytes < 20_000, "{bytes} bytes of {size}");
    }
}

#[test]
fn a_divergence_is_never_exceeded() {
    let folder = Folder::new();
    let (coarse, output) = (folder.at("coarse.gguf"), folder.at("fine.gguf"));
    let coarse = quantize(SMALL, &["--pure", "Q4_0"], &coarse);
    let bound = figure(&coarse, "measured_kld") / 4.0;
    // a plan that misses is made again, with a warning
    let options = ["--max-kld", &bound.to_string(), "--types", "Q4_0,Q5_0,Q8_0", "--quiet"];
    let fine = quantize(SMALL, &options, &output);
    assert!(figure(&fine, "measured_kld") <= bound);
    assert!(figure(&fine, "bytes") > figure(&coarse, "bytes"));
}

/// One analysis, a file for each target, and each the file that its target alone makes.
#[test]
fn a_ladder_is_its_files() {
    let folder = Folder::new();
    let types = ["--types", "Q4_0,Q5_0,Q8_0"];
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    let named = folder.at("{target}.gguf");
    let args = [&["quantize", SMALL, "-o", &named, "--bpw", "5,6", "--json"], &QUICK[..], &types].concat();
    let start = Instant::now();
    let lines = String::from_utf8(command.args(args).assert().success().get_output().stdout.clone()).unwrap();
    let took = start.elapsed().as_secs_f64();
    let reports: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 2);
    assert!(keys(&reports[0]["seconds"]).contains(&"weigh") && !keys(&reports[1]["seconds"]).contains(&"weigh"));
    // no time is counted twice
    let seconds =
        |report: &Value| keys(&report["seconds"]).iter().map(|step| figure(&report["seconds"], step)).sum::<f64>();
    assert!(reports.iter().map(seconds).sum::<f64>() <= took);
    for (bpw, report) in ["5", "6"].iter().zip(&reports) {
        let (rung, alone) = (folder.at(&format!("{bpw}bpw.gguf")), folder.at("alone.gguf"));
        let single = quantize(SMALL, &[&["--bpw", bpw], &types[..]].concat(), &alone);
        assert!(fs::read(&rung).unwrap() == fs::read(&alone).unwrap(), "other bytes at {bpw}");
        assert_eq!(report["output"], rung.as_str());
        for key in ["bytes", "bpw", "predicted_kld", "measured_kld", "types"] {
            assert_eq!(report[key], single[key], "{key}");
        }
    }
}

#[test]
fn as_large_as_another_file() {
    let folder = Folder::new();
    let [other, output] = ["other.gguf", "out.gguf"].map(|name| folder.at(name));
    let size = quantize(SMALL, &["--pure", "Q5_0"], &other)["bytes"].as_u64().unwrap();
    let report = quantize(SMALL, &["--like", &other, "--types", "Q4_0,Q5_0,Q8_0"], &output);
    let bytes = report["bytes"].as_u64().unwrap();
    assert!(bytes <= size && size - bytes < 10_000, "{bytes} bytes like {size}");
}

/// Plans for a memory count the cache: the longer the context, the smaller the file, to the byte.
#[test]
fn memory_is_shared_with_the_context() {
    let folder = Folder::new();
    let [analysis, plan] = ["analysis.json", "plan.json"].map(|name| folder.at(name));
    run(&[&["analyze", SMALL, "-o", &analysis, "--types", "Q4_0,Q5_0,Q8_0"], &QUICK[..]].concat());
    let shape = Analysis::read(Path::new(&analysis)).unwrap().shape.run.unwrap();
    let model = Model::open(Path::new(SMALL)).unwrap();
    assert_eq!(shape, RunShape::of(&model.hparams));
    for (ctx, flag) in [(1000, "--vram-ctx"), (4000, "--ctx")] {
        let vram = DRIVER_BYTES + shape.kv_bytes(ctx) + shape.compute_bytes(ctx) + 60_000;
        let (vram, ctx) = (format!("{vram}B"), ctx.to_string());
        let made = run(&["plan", &analysis, "--vram", &vram, flag, &ctx, "-o", &plan]);
        let sized = run(&["plan", &analysis, "--size", "60000B", "-o", &plan]);
        assert_eq!((&made["bytes"], &made["predicted_kld"]), (&sized["bytes"], &sized["predicted_kld"]));
    }
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    let args = ["plan", &analysis, "--vram", "1MiB", "--ctx", "100000", "-o", &plan];
    command.args(args).assert().code(1).stderr(contains("error: --vram: the KV cache of 100000 tokens alone takes"));
}

/// A BF16 GGUF made from the folder, and from it the types that llama.cpp's rules give.
#[test]
fn a_gguf_becomes_the_mix_of_llama_cpp() {
    let folder = Folder::new();
    let (wide, output) = (folder.at("bf16.gguf"), folder.at("mix.gguf"));
    assert_eq!(quantize(TRAINED, &["--pure", "BF16"], &wide)["measured_kld"], 0.0);
    let report = quantize(&wide, &["--type", "Q4_K_M"], &output);
    let (model, file) = (Model::open(Path::new(TRAINED)).unwrap(), open(&output));
    let shapes: Vec<TensorShape> =
        model.tensors.iter().map(|tensor| TensorShape { name: &tensor.name, dims: &tensor.dims }).collect();
    let shape = ModelShape {
        architecture: "llama".to_owned(),
        block_count: 8,
        head_count: 4,
        head_count_kv: 2,
        ..ModelShape::default()
    };
    let options = MixOptions { has_imatrix: true, ..MixOptions::default() };
    let mix = mixes::mix(Ftype::Q4_K_M, &shape, &shapes, options).unwrap();
    assert_eq!(matrices(&file), mix.types);
    assert_eq!(keys(&report["types"]), ["Q4_K", "Q6_K", "F32"]);
    assert_eq!(file.metadata.u32("general.file_type"), Some(15));
    assert!(report["predicted_kld"].is_null() && figure(&report, "measured_kld") > 0.0);
}

#[test]
fn a_folder_and_its_gguf_give_the_same_tensors() {
    let folder = Folder::new();
    let [wide, a, b] = ["f16.gguf", "a.gguf", "b.gguf"].map(|name| folder.at(name));
    quantize(SMALL, &["--pure", "F16"], &wide);
    quantize(SMALL, &["--pure", "IQ4_NL"], &a);
    quantize(&wide, &["--pure", "IQ4_NL"], &b);
    assert_same_tensors(&open(&a), &open(&b));
}

#[test]
fn one_type_for_all_but_what_is_kept() {
    let folder = Folder::new();
    let output = folder.at("pure.gguf");
    let kept = ["--keep", "token_embd=Q8_0", "--keep", r"blk\.0\.ffn=Q5_1", "--keep", "ffn_up=Q8_0"];
    quantize(SMALL, &[&["--pure", "Q4_0"], &kept[..]].concat(), &output);
    for tensor in &open(&output).tensors {
        let wanted = match tensor.name.as_str() {
            name if name.contains("norm") => GgmlType::F32,
            // of several rules the first counts
            name if name.starts_with("blk.0.ffn_") => GgmlType::Q5_1,
            "token_embd.weight" | "blk.1.ffn_up.weight" => GgmlType::Q8_0,
            _ => GgmlType::Q4_0,
        };
        assert_eq!(tensor.ty, wanted, "{}", tensor.name);
    }

    let report = quantize(SMALL, &["--pure", "Q4_K"], &output);
    let fallbacks = report["fallbacks"].as_array().unwrap();
    assert_eq!(fallbacks.len(), matrices(&open(&output)).len());
    assert!(fallbacks.iter().all(|note| note["wanted"] == "Q4_K" && note["used"] == "Q5_0"), "{fallbacks:?}");
}

/// analyze, plan and quantize one after the other make what quantize makes alone.
#[test]
fn rounding_makes_good_what_search_leaves() {
    let folder = Folder::new();
    // 2,048 tokens: few enough to fit them too well
    let measured = |options: &[&str], name: &str| {
        let text = ["--device", "cpu", "--ctx", "64", "--chunks", "32", "--pure", "Q4_K"];
        let report = run(&[&["quantize", TRAINED, "-o", &folder.at(name)], &text[..], options].concat());
        figure(&report, "measured_kld")
    };
    let plain = measured(&["--rounding", "search", "--effort", "fast"], "plain.gguf");
    let search = measured(&["--rounding", "search"], "search.gguf");
    let feedback = measured(&["--rounding", "feedback"], "feedback.gguf");
    assert!(search < 0.9 * plain, "{search} of {plain}");
    assert!(feedback < 0.6 * plain, "{feedback} of {plain}");
}

#[test]
fn plans_travel_in_files() {
    let folder = Folder::new();
    let [analysis, plan, types, planned, whole] =
        ["analysis.json", "plan.json", "types.txt", "planned.gguf", "whole.gguf"].map(|name| folder.at(name));
    let analyzed = run(&[&["analyze", SMALL, "-o", &analysis, "--types", "Q4_0,Q5_0,Q8_0"], &QUICK[..]].concat());
    let made = run(&["plan", &analysis, "--bpw", "6", "-o", &plan, "--tensor-types", &types]);
    let report = quantize(SMALL, &["--plan", &plan], &planned);
    let alone = quantize(SMALL, &["--bpw", "6", "--types", "Q4_0,Q5_0,Q8_0"], &whole);
    assert!(fs::read(&planned).unwrap() == fs::read(&whole).unwrap(), "other bytes than without files between");
    for key in ["bytes", "bpw", "predicted_kld"] {
        assert_eq!((&made[key], &report[key]), (&alone[key], &alone[key]), "{key}");
    }
    let file = open(&planned);
    let lines = fs::read_to_string(&types).unwrap();
    assert_eq!(lines.lines().count(), matrices(&file).len());
    for (name, ty) in matrices(&file) {
        let line = format!("^{}$={}", name.replace('.', r"\."), ty.name().to_lowercase());
        assert!(lines.lines().any(|found| found == line), "no `{line}` in\n{lines}");
    }
    assert_eq!(analyzed["tensors"], matrices(&file).len());
    let groups = made["groups"].as_array().unwrap();
    let shares: f64 = groups.iter().map(|group| figure(group, "share")).sum();
    assert!((shares - 1.0).abs() < 1e-9 && figure(&made["less"], "predicted_kld") > figure(&made, "predicted_kld"));
    assert!(figure(&made["worst"][0], "share") > 0.0 && groups[0]["types"].is_object());
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    let people = command.args(["plan", &analysis, "--bpw", "6", "-o", &plan]).assert().success();
    people.stdout(contains("class  ").and(contains("most damage  ")).and(contains("1 % smaller ")));
}

#[test]
fn an_importance_matrix_travels_in_a_file() {
    let folder = Folder::new();
    let [imatrix, with, without] = ["imatrix.gguf", "with.gguf", "without.gguf"].map(|name| folder.at(name));
    let made = run(&[&["imatrix", SMALL, "-o", &imatrix], &QUICK[..]].concat());
    assert_eq!((&made["chunks"], &made["chunk_size"]), (&4.into(), &64.into()));
    let given = quantize(SMALL, &["--pure", "Q4_0", "--imatrix", &imatrix], &with);
    let own = quantize(SMALL, &["--pure", "Q4_0"], &without);
    let metadata = open(&with).metadata.clone();
    assert_eq!(metadata.str("quantize.imatrix.file"), Some(imatrix.as_str()));
    assert_eq!(metadata.u32("quantize.imatrix.entries_count").map(Value::from), Some(made["tensors"].clone()));
    assert_eq!(metadata.u32("quantize.imatrix.chunks_count"), Some(4));
    // the file holds sums in f32
    let (given, own) = (figure(&given, "measured_kld"), figure(&own, "measured_kld"));
    assert!((given - own).abs() <= 0.01 * own, "{given} with the file, {own} without");
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let report = run(&[&["kld", SMALL, SMALL], &QUICK[..]].concat());
    for key in "mean median p90 p95 p99 p999 max".split(' ') {
        assert_eq!(figure(&report, &format!("{key}_kld")), 0.0, "{key}");
    }
    assert_eq!((figure(&report, "rms_dp"), figure(&report, "mean_kld_se")), (0.0, 0.0));
    assert_eq!((figure(&report, "same_top"), report["ppl_base"].clone()), (1.0, report["ppl_quant"].clone()));
    // the second half of each chunk but its last token, which predicts nothing
    assert_eq!(report["tokens"], 4 * 31);
    let bytes = fs::metadata(format!("{SMALL}/model.safetensors")).unwrap().len();
    assert_eq!((&report["bytes_base"], &report["bytes_quant"]), (&bytes.into(), &bytes.into()));

    let folder = Folder::new();
    let text = folder.at("text.txt");
    fs::write(&text, "To be, or not to be, that is the question. ".repeat(20)).unwrap();
    let report = run(&[&["kld", SMALL, SMALL, "--text", &text, "--all-positions"], &QUICK[..]].concat());
    assert_eq!(report["tokens"], 4 * 63);
}

#[test]
fn inspect_shows_what_was_written() {
    let folder = Folder::new();
    let output = folder.at("out.gguf");
    let report = quantize(SMALL, &["--pure", "Q5_1"], &output);
    let shown = run(&["inspect", &output]);
    assert_eq!((&shown["format"], &shown["file_bytes"]), (&"gguf".into(), &report["bytes"]));
    assert_eq!(shown["tensors"].as_array().unwrap().len(), open(&output).tensors.len());
    assert_eq!(shown["metadata"]["dq_gpu.version"], env!("CARGO_PKG_VERSION"));
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    command
        .args(["inspect", &output])
        .assert()
        .success()
        .stdout(contains("Q5_1"))
        .stdout(contains("token_embd.weight"));
}

/// A probe is what a file measures in which that group alone is coarse, and its group's predictions add up to it.
#[test]
fn probes_measure_what_files_do() {
    let folder = Folder::new();
    let [analysis, file, text] = ["analysis.json", "file.gguf", "chats.jsonl"].map(|name| folder.at(name));
    let lines = (0..40).map(|i| {
        let (question, answer) = (format!("What is {i} and {}?", i + 3), format!("It is {}, as always.", 2 * i + 3));
        serde_json::json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    });
    fs::write(&text, lines.map(|line| line.to_string() + "\n").collect::<String>()).unwrap();
    let options = ["--device", "cpu", "--ctx", "64", "--chunks", "6"];
    let plain = ["--calibration", &text, "--calibration-only", "--rounding", "search", "--effort", "fast"];
    let probing = ["analyze", TRAINED, "-o", &analysis, "--types", "Q2_K", "--sensitivity", "probes", "--probes"];
    let report = run(&[&probing[..], &options, &plain].concat());
    assert_eq!(report["sensitivity"], "group probes");
    let analysis = Analysis::read(Path::new(&analysis)).unwrap();
    let probes = analysis.probes.as_ref().unwrap();
    assert_eq!(probes.groups.len(), 2 + 7 * 5);
    let mean = |name: &str| probes.groups.iter().find(|group| group.name == name).unwrap().mean();

    let measured = |pattern: &str, name: &str| {
        let group = probes.groups.iter().find(|group| group.name == name).unwrap();
        let ty = group.types.values().next().unwrap();
        let keep = format!("{pattern}={ty}");
        let quantize = ["quantize", TRAINED, "-o", &file, "--pure", "BF16", "--keep", &keep];
        run(&[&quantize[..], &options, &plain].concat());
        let kld = run(&[&["kld", TRAINED, &file, "--text", &text, "--all-positions"][..], &options].concat());
        figure(&kld, "mean_kld")
    };
    for (pattern, name) in [(r"blk\.[56]\.ffn_down", "ffn_down 5-6"), ("^output", "output")] {
        let (found, truth) = (mean(name), measured(pattern, name));
        assert!((found - truth).abs() < 0.02 * truth, "{name}: {found}, measured {truth}");
    }

    for group in &probes.groups {
        let predicted = |(name, ty): (&String, &GgmlType)| analysis.tensor(name).unwrap().predicted(*ty);
        let Some(sum) = group.types.iter().map(predicted).sum::<Option<f64>>() else { continue };
        // the errors of both are measured on a sample of the rows
        assert!((sum / group.mean() - 1.0).abs() < 0.02, "{}: {sum}, probed {}", group.name, group.mean());
    }
}

#[test]
fn objectives_travel_from_probes_to_files() {
    let folder = Folder::new();
    let [bare, analysis, plan, output] =
        ["bare.json", "analysis.json", "plan.json", "out.gguf"].map(|name| folder.at(name));
    let types = ["--types", "Q4_0,Q5_0,Q8_0"];
    run(&[&["analyze", SMALL, "-o", &bare], &types[..], &QUICK].concat());
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    let args = ["plan", &bare, "--bpw", "6", "-o", &plan, "--objective", "tail"];
    command.args(args).assert().code(1).stderr(contains("dq-gpu analyze --probes"));

    run(&[&["analyze", SMALL, "-o", &analysis, "--probes"], &types[..], &QUICK].concat());
    for objective in ["tail", "balanced"] {
        let made = run(&["plan", &analysis, "--bpw", "6", "-o", &plan, "--objective", objective]);
        let whole = [&["--bpw", "6", "--objective", objective], &types[..]].concat();
        let report = quantize(SMALL, &whole, &output);
        assert_eq!((&made["bytes"], &made["predicted_kld"]), (&report["bytes"], &report["predicted_kld"]));
        let (before, after) = (&report["objective"]["before"], &report["objective"]["after"]);
        assert!(figure(after, "score") <= figure(before, "score") && report["objective"]["objective"] == objective);
        assert!(keys(&report["seconds"]).contains(&"probe"));
    }
    let mean = run(&["plan", &analysis, "--bpw", "6", "-o", &plan]);
    assert_eq!(mean["predicted_kld"], run(&["plan", &bare, "--bpw", "6", "-o", &plan])["predicted_kld"]);
}
