//! The whole command on the CPU and on a GPU: the same plan, nearly the same bytes, the same figures.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use dq_gpu::gguf::{GgufFile, TensorInfo};
use dq_gpu::quant;
use serde_json::Value;

const MODEL: &str = "tests/fixtures/models/llama-tied";

/// A file that `dq-gpu quantize` wrote, and what it said about it.
struct Made {
    file: GgufFile,
    report: Value,
}

impl Made {
    fn figure(&self, key: &str) -> f64 {
        self.report[key].as_f64().unwrap_or_else(|| panic!("no {key}: {}", self.report))
    }

    fn tensor(&self, name: &str) -> (&TensorInfo, Vec<u8>) {
        let tensor = self.file.tensor(name).unwrap_or_else(|| panic!("no {name}"));
        (tensor, self.file.data(tensor).unwrap())
    }
}

fn run(arguments: &[&str], paths: &[(&str, &Path)]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dq-gpu"));
    command.args(arguments).args(["--ctx", "64", "--quiet"]);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn quantize(model: &str, device: &str, options: &[&str], output: &Path, imatrix: Option<&Path>) -> Made {
    let arguments = [&["quantize", model, "--device", device, "--json"], options].concat();
    let paths: Vec<(&str, &Path)> =
        [("-o", output)].into_iter().chain(imatrix.map(|path| ("--imatrix", path))).collect();
    let report = serde_json::from_slice(&run(&arguments, &paths).stdout).unwrap();
    Made { file: GgufFile::open(output).unwrap(), report }
}

/// Name of the adapter to compare with the CPU; none, with a line that says so, where there is no adapter.
fn adapter() -> Option<String> {
    common::gpu()?;
    Some(std::env::var("DQ_GPU_TEST_ADAPTER").unwrap_or_else(|_| "llvmpipe".to_owned()))
}

/// Number of blocks, and of those whose bytes differ. Names, types and shapes must be the same.
fn differing_blocks(a: &Made, b: &Made) -> (usize, usize) {
    assert_eq!(a.file.tensors.len(), b.file.tensors.len());
    let (mut all, mut differing) = (0, 0);
    for tensor in &a.file.tensors {
        let (other, right) = b.tensor(&tensor.name);
        assert_eq!((tensor.ty, &tensor.dims), (other.ty, &other.dims), "{}", tensor.name);
        let size = tensor.ty.block_bytes();
        let left = a.file.data(tensor).unwrap();
        let pairs = left.chunks(size).zip(right.chunks(size));
        all += pairs.len();
        differing += pairs.filter(|(a, b)| a != b).count();
    }
    (all, differing)
}

#[test]
fn the_whole_job_is_the_same_on_both_devices() {
    let Some(gpu) = adapter() else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = ["--chunks", "4", "--bpw", "6", "--types", "Q4_0,Q5_0,Q8_0"];
    let make = |device: &str, name: &str, prefix: &str, imatrix: Option<&Path>| {
        let options = [&options[..], &["--prefix", prefix]].concat();
        quantize(MODEL, device, &options, &folder.path().join(name), imatrix)
    };
    let both = |prefix: &str, imatrix: Option<&Path>| {
        [("cpu", "cpu.gguf"), (&gpu, "gpu.gguf")].map(|(device, name)| make(device, name, prefix, imatrix))
    };
    let hash = |made: &Made| made.file.metadata.str("dq_gpu.plan_hash").unwrap().to_owned();
    let [cpu, other] = both("quantized", None);
    assert_eq!(hash(&cpu), hash(&other), "the same plan");
    // A block that changes its place moves all that is rounded behind it, in a model of random weights visibly.
    for (key, tolerance) in [("predicted_kld", 1e-3), ("measured_kld", 0.1)] {
        let (a, b) = (cpu.figure(key), other.figure(key));
        assert!(a > 0.0 && (a - b).abs() <= tolerance * a, "{key}: {a} on the CPU, {b} on the GPU");
    }
    // Importance and second moments are sums of floats in another order: now and then two candidates of a block change places.
    let [cpu, other] = both("original", None);
    let (a, b) = (cpu.figure("measured_kld"), other.figure("measured_kld"));
    assert!((a - b).abs() <= 1e-2 * a, "{a} on the CPU, {b} on the GPU");
    let (all, differing) = differing_blocks(&cpu, &other);
    assert!(differing * 100 <= all, "{differing} of {all} blocks differ");

    // With the same importance only second moments differ, in their last bits: near ties are rarer.
    let imatrix: PathBuf = folder.path().join("imatrix.gguf");
    run(&["imatrix", MODEL, "--device", "cpu", "--chunks", "4"], &[("-o", &imatrix)]);
    let [cpu, other] = both("original", Some(&imatrix));
    assert_eq!(hash(&cpu), hash(&other), "the same plan");
    let (all, differing) = differing_blocks(&cpu, &other);
    assert!(differing * 200 <= all, "{differing} of {all} blocks differ");
}

#[test]
fn the_measure_of_a_file_is_the_same_on_both_devices() {
    let Some(gpu) = adapter() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("q.gguf");
    quantize(MODEL, "cpu", &["--chunks", "4", "--pure", "Q4_0"], &file, None);
    let [cpu, other] = ["cpu", &gpu].map(|device| -> Value {
        let arguments = ["kld", MODEL, file.to_str().unwrap(), "--device", device, "--chunks", "4", "--json"];
        serde_json::from_slice(&run(&arguments, &[]).stdout).unwrap()
    });
    let (a, b) = (cpu["mean_kld"].as_f64().unwrap(), other["mean_kld"].as_f64().unwrap());
    assert!((a - b).abs() <= 1e-3 * a, "{a} on the CPU, {b} on the GPU");
    assert_eq!(cpu["same_top"], other["same_top"]);
}

#[test]
fn plain_floats_are_conversions() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let quantized = quantize(MODEL, "cpu", &["--chunks", "4", "--pure", "Q5_0"], &at("q.gguf"), None);
    for device in std::iter::once("cpu".to_owned()).chain(adapter()) {
        // the source's own type: a copy without any loss
        let same = quantize(MODEL, &device, &["--chunks", "4", "--pure", "F16"], &at("f16.gguf"), None);
        assert_eq!(same.figure("measured_kld"), 0.0);
        // a quantized file decoded: what the formats say, and a proof that nothing has changed
        let decoded = quantize(
            at("q.gguf").to_str().unwrap(),
            &device,
            &["--chunks", "4", "--pure", "F32"],
            &at("f32.gguf"),
            None,
        );
        assert!(decoded.figure("measured_kld") < 1e-9);
        for tensor in &quantized.file.tensors {
            let (wide, bytes) = decoded.tensor(&tensor.name);
            assert_eq!((wide.ty.name(), &wide.dims), ("F32", &tensor.dims));
            let mut values = vec![0f32; bytes.len() / 4];
            quant::decode(tensor.ty, &quantized.file.data(tensor).unwrap(), &mut values).unwrap();
            assert_eq!(bytemuck::cast_slice::<f32, u8>(&values), bytes, "{} on {device}", tensor.name);
        }
        for metadata in [&same.file.metadata, &decoded.file.metadata] {
            assert_eq!(metadata.str("dq_gpu.calibration_hash"), Some(""), "no calibration text was used");
        }
    }
}

#[test]
fn less_memory_gives_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let make = |memory: &str, name: &str| {
        quantize(MODEL, "cpu", &["--chunks", "24", "--bpw", "6", "--memory", memory], &folder.path().join(name), None)
    };
    // With 1 MiB one sequence passes a layer at a time, which takes 0.4 MiB, and the hidden states, 384 KiB, go to disk.
    let (plenty, tight) = (make("1GiB", "plenty.gguf"), make("1MiB", "tight.gguf"));
    let (all, differing) = differing_blocks(&plenty, &tight);
    assert!(differing * 100 <= all, "{differing} of {all} blocks differ");
    let (a, b) = (plenty.figure("measured_kld"), tight.figure("measured_kld"));
    assert!((a - b).abs() <= 1e-2 * a, "{a} with plenty, {b} with little memory");
}

#[test]
fn too_little_memory_is_said_with_the_least_that_would_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_dq-gpu"))
        .args(["quantize", MODEL, "--bpw", "6", "--ctx", "64", "--memory", "10KiB", "--device", "cpu", "-o"])
        .arg(tempfile::tempdir().unwrap().path().with_extension("gguf"))
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("--memory") && message.contains("the least is"), "{message}");
}
