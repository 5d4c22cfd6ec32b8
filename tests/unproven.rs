//! A GGUF of an architecture that cannot be run here: what `quantize` makes of it, says of it, and refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use dq_gpu::gguf::{GgufFile, GgufWriter, Metadata, TensorPlan, Value as Meta};
use dq_gpu::plan::Plan;
use dq_gpu::quant::GgmlType;
use dq_gpu::source::Model;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

/// BF16, trained, 8 layers; rows of 256 and 768 weights fit every type.
const TRAINED: &str = "models/tiny-llama";
/// F16, tied, 2 layers; rows of 64 weights.
const SMALL: &str = "tests/fixtures/models/llama-tied";
/// Four experts, of which a token asks two; rows of 32, 64 and 96 weights.
const EXPERTS: &str = "tests/fixtures/models/gptoss";
/// An architecture that llama.cpp's rules do not name.
const OTHER: &str = "starcoder2";
const QUICK: [&str; 6] = ["--device", "cpu", "--ctx", "64", "--chunks", "4"];
const PLAIN: [&str; 4] = ["--rounding", "search", "--effort", "fast"];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A model as the GGUF of another architecture.
    fn other(&self, model: &str, change: impl Fn(&mut Metadata)) -> String {
        let (model, path) = (Model::open(Path::new(model)).unwrap(), self.at("other.gguf"));
        let own = format!("{}.", model.family.architecture());
        let mut metadata = Metadata::new();
        for (key, value) in model.metadata.iter() {
            match key.strip_prefix(&own) {
                Some(key) => metadata.set(format!("{OTHER}.{key}"), value.clone()),
                None => metadata.set(key, value.clone()),
            }
        }
        metadata.set("general.architecture", OTHER);
        change(&mut metadata);
        let tensors: Vec<TensorPlan> = model.tensors.iter().map(|tensor| tensor.plan()).collect();
        let mut writer = GgufWriter::new(Path::new(&path), &metadata, &tensors).unwrap();
        for tensor in &model.tensors {
            writer.write_tensor(&tensor.name, &model.bytes(tensor).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    /// An importance matrix of a model.
    fn imatrix(&self, model: &str) -> String {
        let path = self.at("imatrix.gguf");
        run(&[&["imatrix", model, "-o", &path], &QUICK[..]].concat());
        path
    }
}

fn dq_gpu(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    command.args(args);
    command
}

/// What a command prints as JSON; notes and warnings are failures.
fn run(args: &[&str]) -> Value {
    let output = dq_gpu(args).arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{args:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn quantize(model: &str, options: &[&str], output: &str) -> Value {
    run(&[&["quantize", model, "-o", output], &QUICK[..], options].concat())
}

/// Exit code 1 and one line with `part`.
fn is_refused(args: &[&str], part: &str) {
    let one_line = predicate::function(|text: &str| text.lines().count() == 1);
    dq_gpu(args).assert().code(1).stdout("").stderr(contains(part).and(one_line));
}

fn open(file: &str) -> GgufFile {
    GgufFile::open(Path::new(file)).unwrap()
}

fn types(file: &str) -> BTreeMap<String, GgmlType> {
    open(file).tensors.iter().map(|tensor| (tensor.name.clone(), tensor.ty)).collect()
}

fn assert_same_tensors(a: &str, b: &str) {
    let (a, b) = (open(a), open(b));
    assert_eq!(a.tensors.len(), b.tensors.len());
    for tensor in &a.tensors {
        let other = b.tensor(&tensor.name).unwrap();
        assert_eq!((tensor.ty, &tensor.dims), (other.ty, &other.dims), "{}", tensor.name);
        assert!(a.data(tensor).unwrap() == b.data(other).unwrap(), "other bytes in {}", tensor.name);
    }
}

/// A report without any figure of a KL, and a file that does not speak of one.
fn assert_unproven(report: &Value, file: &str, parts: &[&str]) {
    for key in ["predicted_kld", "measured_kld", "measured_kld_se", "same_top", "tokens"] {
        assert_eq!(report.get(key), Some(&Value::Null), "{key}: {report}");
    }
    let why = report["not_proven"].as_str().unwrap();
    assert!(why.starts_with("dq-gpu has no forward pass for architecture `starcoder2`: no KL is measured"), "{why}");
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    let metadata = open(file).metadata.clone();
    let told: Vec<&str> = metadata.iter().map(|(key, _)| key).filter(|key| key.starts_with("dq_gpu.")).collect();
    assert_eq!(told, ["dq_gpu.version", "dq_gpu.plan_hash", "dq_gpu.calibration_hash"]);
    assert_eq!(metadata.str("general.architecture"), Some(OTHER));
    assert_eq!(report["bytes"], fs::metadata(file).unwrap().len());
}

/// Encoding needs names, shapes and importance: the same bytes as of the model that can be run.
#[test]
fn types_by_rule_are_those_of_a_known_architecture() {
    let folder = Folder::new();
    let (other, imatrix) = (folder.other(TRAINED, |_| {}), folder.imatrix(TRAINED));
    let (a, b) = (folder.at("a.gguf"), folder.at("b.gguf"));
    for target in [["--pure", "Q4_K"], ["--type", "Q4_K_M"], ["--type", "IQ2_XXS"]] {
        let options = [&target[..], &["--imatrix", &imatrix]].concat();
        let report = quantize(&other, &options, &a);
        assert_unproven(&report, &a, &["every block is rounded alone"]);
        assert!(!report["not_proven"].as_str().unwrap().contains("columns"), "{report}");
        quantize(TRAINED, &[&options[..], &PLAIN].concat(), &b);
        assert_same_tensors(&a, &b);
    }
    let keys = ["quantize.imatrix.file", "quantize.imatrix.entries_count", "general.file_type"];
    let (ours, theirs) = (open(&a).metadata.clone(), open(&b).metadata.clone());
    assert!(keys.iter().all(|key| ours.contains(key) && ours.get(key) == theirs.get(key)));
}

#[test]
fn sizes_are_met_with_and_without_importance() {
    let folder = Folder::new();
    let (other, imatrix) = (folder.other(TRAINED, |_| {}), folder.imatrix(TRAINED));
    let output = folder.at("out.gguf");
    let few = ["--types", "Q3_K,Q4_K,Q5_K,Q6_K"];
    for importance in [&[][..], &["--imatrix", &imatrix]] {
        let report = quantize(&other, &[&["--bpw", "4.5"], &few[..], importance].concat(), &output);
        let parts = ["no sensitivities are known, so that types are chosen by the relative errors of tensors"];
        assert_unproven(&report, &output, &parts);
        let blind = report["not_proven"].as_str().unwrap().contains("all columns count the same (no --imatrix)");
        assert_eq!(blind, importance.is_empty());
        let bpw = report["bpw"].as_f64().unwrap();
        assert!(bpw <= 4.5 && bpw > 4.3, "{report}");
        assert!(report["seconds"].get("weigh").is_some() && report["seconds"].get("prove").is_none());
        // what all tokens pass counts more than a part of a layer
        let types = types(&output);
        let layers = types.iter().filter(|(name, ty)| name.starts_with("blk.") && ty.is_quantized());
        let finest = layers.map(|(_, ty)| ty.bpw()).fold(0.0, f64::max);
        assert!(types["output.weight"].bpw() >= finest, "{types:?}");
    }
    let size = report_size(&folder, &other);
    let report = quantize(&other, &[&["--size", &format!("{size}B")], &few[..]].concat(), &output);
    assert!(report["bytes"].as_u64().unwrap() <= size);
}

/// Bytes between those of two types.
fn report_size(folder: &Folder, other: &str) -> u64 {
    let bytes = |ty: &str| quantize(other, &["--pure", ty], &folder.at("pure.gguf"))["bytes"].as_u64().unwrap();
    (bytes("Q4_K") + bytes("Q5_K")) / 2
}

/// Plans by relative errors are better than llama.cpp's mixes of the same size, measured where the model can be run.
#[test]
fn a_plan_serves_the_model_that_can_be_run() {
    let folder = Folder::new();
    let (other, imatrix) = (folder.other(TRAINED, |_| {}), folder.imatrix(TRAINED));
    let (planned, mixed) = (folder.at("planned.gguf"), folder.at("mixed.gguf"));
    quantize(&other, &["--type", "Q4_K_M", "--imatrix", &imatrix], &mixed);
    quantize(&other, &["--like", &mixed, "--imatrix", &imatrix, "--profile", "compatible"], &planned);
    let measured = |file: &str| {
        // the file as one of the known architecture
        let known = folder.at("known.gguf");
        let (file, model) = (open(file), Model::open(Path::new(TRAINED)).unwrap());
        let tensor = |tensor: &dq_gpu::gguf::TensorInfo| TensorPlan {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            ty: tensor.ty,
        };
        let tensors: Vec<TensorPlan> = file.tensors.iter().map(tensor).collect();
        let mut writer = GgufWriter::new(Path::new(&known), &model.metadata, &tensors).unwrap();
        for tensor in &file.tensors {
            writer.write_tensor(&tensor.name, &file.data(tensor).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        run(&[&["kld", TRAINED, &known], &QUICK[..]].concat())["mean_kld"].as_f64().unwrap()
    };
    let (planned, mixed) = (measured(&planned), measured(&mixed));
    assert!(planned < 0.8 * mixed, "{planned} of the plan, {mixed} of the mix");
}

#[test]
fn experts_and_kept_tensors_follow_the_rules() {
    let folder = Folder::new();
    let other = folder.other(EXPERTS, |_| {});
    let (a, b) = (folder.at("a.gguf"), folder.at("b.gguf"));
    let imatrix = folder.imatrix(EXPERTS);
    let options = ["--type", "Q4_0", "--imatrix", &imatrix, "--quiet"];
    quantize(&other, &options, &a);
    quantize(EXPERTS, &[&options[..], &PLAIN].concat(), &b);
    assert_same_tensors(&a, &b);
    assert!(types(&a).iter().all(|(name, ty)| !name.contains("ffn_gate_inp") || !ty.is_quantized()));
    let report = quantize(&other, &["--bpw", "6", "--types", "Q4_0,Q5_0,Q8_0"], &a);
    assert!(report["bpw"].as_f64().unwrap() <= 6.0);

    // rules that ask for layers count them where no key says how many there are
    let nameless = folder.other(EXPERTS, |metadata| drop(metadata.remove(&format!("{OTHER}.block_count"))));
    quantize(&nameless, &options, &b);
    let options = ["--keep", "ffn_down=Q8_0", "--pure", "Q4_0"];
    quantize(&nameless, &options, &a);
    assert_eq!(types(&a)["blk.0.ffn_down_exps.weight"], GgmlType::Q8_0);
}

#[test]
fn plan_files_floats_and_ladders() {
    let folder = Folder::new();
    let other = folder.other(SMALL, |metadata| {
        // of a file that was proven once
        metadata.set("dq_gpu.kld.mean", Meta::F32(0.5));
        metadata.set("dq_gpu.heldout_hash", Meta::String("0123".to_owned()));
    });
    let [analysis, plan, a, b] = ["analysis.json", "plan.json", "a.gguf", "b.gguf"].map(|name| folder.at(name));
    run(&[&["analyze", SMALL, "-o", &analysis, "--types", "Q4_0,Q5_0,Q8_0"], &QUICK[..]].concat());
    run(&["plan", &analysis, "--bpw", "6", "-o", &plan]);
    let report = quantize(&other, &["--plan", &plan, "--quiet"], &a);
    assert_unproven(&report, &a, &["every block is rounded alone"]);
    let planned: BTreeMap<String, GgmlType> = types(&a).into_iter().filter(|(_, ty)| ty.is_quantized()).collect();
    assert_eq!(open(&a).metadata.str("dq_gpu.plan_hash"), Some(Plan::hash_of(&planned).as_str()));

    let report = quantize(&other, &["--pure", "F16"], &b);
    assert_unproven(&report, &b, &[]);
    assert!(!report["not_proven"].as_str().unwrap().contains("block"), "{report}");
    assert_same_tensors(&other, &b);

    // each file of a ladder is the one that its target alone makes, errors kept from one job to the next or not
    let types = ["--types", "Q4_0,Q5_0,Q8_0"];
    let (named, work) = (folder.at("{target}.gguf"), folder.at("work"));
    let args =
        [&["quantize", &other, "-o", &named, "--bpw", "5,6", "--quiet", "--work", &work], &QUICK[..], &types].concat();
    let stdout = dq_gpu(&args).assert().success().get_output().stdout.clone();
    let text = String::from_utf8(stdout).unwrap();
    assert!(text.contains("not proven      dq-gpu has no forward pass for architecture `starcoder2`: "), "{text}");
    assert!(!text.contains("\nmeasured KL") && !text.contains("\npredicted KL"), "{text}");
    for bpw in ["5", "6"] {
        for options in [&[][..], &["--work", &work]] {
            quantize(&other, &[&["--bpw", bpw], &types[..], options].concat(), &a);
            assert!(fs::read(&a).unwrap() == fs::read(folder.at(&format!("{bpw}bpw.gguf"))).unwrap());
        }
    }
}

#[test]
fn what_needs_the_model_to_run_is_refused() {
    let folder = Folder::new();
    let other = folder.other(TRAINED, |_| {});
    let output = folder.at("out.gguf");
    let refused = |options: &[&str], part: &str| {
        is_refused(&[&["quantize", &other, "-o", &output, "--device", "cpu"], options].concat(), part);
        assert!(!Path::new(&output).exists(), "{options:?}");
    };
    let why = "needs the model to be run, and dq-gpu has no forward pass for architecture `starcoder2`: `";
    let bpw = ["--bpw", "4"];
    for (option, options) in [
        ("--max-kld", &["--max-kld", "0.1"][..]),
        ("--vram", &["--vram", "8GiB"]),
        ("--rounding feedback", &["--rounding", "feedback"]),
        ("--sensitivity", &["--sensitivity", "probes"]),
        ("--objective", &["--objective", "tail"]),
        ("--effort max", &["--effort", "max"]),
        ("--prefix quantized", &["--prefix", "quantized"]),
        ("--rounds", &["--rounds", "1"]),
        ("--calibration", &["--calibration", "README.md"]),
    ] {
        let target = if matches!(option, "--max-kld" | "--vram") { &[][..] } else { &bpw };
        refused(&[target, options].concat(), &format!("error: {option} {why}"));
    }
    refused(&["--pure", "IQ2_XXS"], "there is no importance matrix (--imatrix) for 56 tensors");
    refused(&["--type", "IQ2_XS"], "that are to have a type which needs it, such as IQ2_XS: ");
    refused(&["--bpw", "3", "--types", "IQ2_XXS,Q4_K"], "--types: IQ2_XXS needs an importance matrix (--imatrix)");
    refused(&["--bpw", "1.8"], "the smallest possible plan has");
    refused(&["--bpw", "4", "--keep", "nothing=Q4_K"], "the pattern matches no tensor");

    let known = "unknown model architecture: `starcoder2` (known: ";
    let hint = "; `dq-gpu quantize` takes a GGUF of any, without a proof";
    for args in [["kld", &other, &other], ["imatrix", &other, "-o"], ["analyze", &other, "-o"]] {
        let file = if args[2] == "-o" { &[output.as_str()][..] } else { &[] };
        let args = [&args[..], file, &["--device", "cpu"]].concat();
        is_refused(&args, known);
        is_refused(&args, hint);
    }

    // the defaults in so many words are no request
    quantize(&other, &[&PLAIN[..], &["--pure", "Q4_K", "--rounds", "0", "--prefix", "original"]].concat(), &output);
    let again = ["quantize", &output, "-o", &folder.at("again.gguf"), "--pure", "Q2_K", "--device", "cpu"];
    is_refused(&again, "the model is quantized already (Q4_K)");
    let report = run(&[&again[..], &["--allow-requantize"]].concat());
    assert_eq!(report["quantized_source"], "Q4_K");
    assert_eq!(open(&folder.at("again.gguf")).metadata.str("dq_gpu.quantized_source"), Some("Q4_K"));
}

#[test]
fn a_folder_of_an_unknown_architecture_is_to_be_converted() {
    let folder = Folder::new();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(Path::new(SMALL).join(name), folder.at(name)).unwrap();
    }
    let config = fs::read_to_string(folder.at("config.json")).unwrap();
    fs::write(folder.at("config.json"), config.replace("LlamaForCausalLM", "FalconForCausalLM")).unwrap();
    let (model, output) = (folder.at(""), folder.at("out.gguf"));
    let args = ["quantize", &model, "-o", &output, "--pure", "Q4_0", "--device", "cpu"];
    is_refused(&args, "unknown model architecture in config.json: `FalconForCausalLM` (known: ");
    is_refused(&args, "make a GGUF of it with llama.cpp's convert_hf_to_gguf.py");
}
