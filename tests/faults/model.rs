//! A small model folder that tests can spoil, and the program run on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use dq_gpu::source::Model;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;
use tempfile::TempDir;

/// Type, shape and bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

/// A copy of one of the models in `tests/fixtures/models`.
pub struct Folder {
    pub folder: TempDir,
    pub config: Json,
    pub tensors: BTreeMap<String, Stored>,
}

impl Folder {
    pub fn of(name: &str) -> Folder {
        let folder = TempDir::new().unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
        }
        let config = fs::read_to_string(fixture(name).join("config.json")).unwrap();
        let bytes = fs::read(fixture(name).join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors.iter().map(|(name, view)| (name.to_owned(), stored(&view))).collect();
        Folder { folder, config: serde_json::from_str(&config).unwrap(), tensors }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn set(mut self, key: &str, value: Json) -> Folder {
        self.config[key] = value;
        self
    }

    pub fn without(mut self, tensor: &str) -> Folder {
        self.tensors.remove(tensor).unwrap();
        self
    }

    pub fn with(mut self, tensor: &str, stored: Stored) -> Folder {
        self.tensors.insert(tensor.to_owned(), stored);
        self
    }

    /// Changes the f32 values of a tensor.
    pub fn change(mut self, tensor: &str, change: impl FnOnce(&mut [f32])) -> Folder {
        let (ty, _, bytes) = self.tensors.get_mut(tensor).unwrap();
        assert_eq!(*ty, Dtype::F32);
        let mut values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        change(&mut values);
        *bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self
    }

    pub fn write(self) -> Folder {
        fs::write(self.at("config.json"), self.config.to_string()).unwrap();
        self.write_weights("model.safetensors");
        self
    }

    pub fn write_weights(&self, file: &str) {
        write_safetensors(&self.at(file), &self.tensors);
    }

    /// What opening the written folder says.
    pub fn refused(&self) -> String {
        message(Model::open(self.path()))
    }
}

pub fn stored(view: &TensorView) -> Stored {
    (view.dtype(), view.shape().to_vec(), view.data().to_vec())
}

pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Stored>) {
    let views =
        tensors.iter().map(|(name, (ty, shape, bytes))| (name, TensorView::new(*ty, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

pub fn message<T>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.err().expect("an error"))
}

/// Fails unless `text` has all `parts`.
#[track_caller]
pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

/// Runs the program; gives its exit code, what it prints and what it says.
pub fn run(args: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("dq-gpu").unwrap().args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Little text and little effort. Options of a test come first.
fn quick<'a>(options: &[&'a str], chunks: &'a str) -> Vec<&'a str> {
    let mut all = vec!["--rounding", "search", "--effort", "fast", "--device", "cpu", "--ctx", "64"];
    if !options.contains(&"--chunks") {
        all.extend(["--chunks", chunks]);
    }
    [all.as_slice(), options].concat()
}

/// `quantize MODEL ... --json` with little text; gives the report and what was said.
#[track_caller]
pub fn quantize(model: &Path, output: &Path, options: &[&str]) -> (Json, String) {
    let paths = ["quantize", model.to_str().unwrap(), "-o", output.to_str().unwrap(), "--json"];
    let (code, out, errors) = run(&[&paths[..], &quick(options, "4")].concat());
    assert_eq!(code, 0, "{options:?}: {errors}");
    (serde_json::from_str(&out).unwrap(), errors)
}

/// The one sentence with which `quantize` refuses.
#[track_caller]
pub fn refusal(model: &Path, options: &[&str]) -> String {
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("out.gguf");
    let paths = ["quantize", model.to_str().unwrap(), "-o", output.to_str().unwrap(), "-q"];
    let (code, _, errors) = run(&[&paths[..], &quick(options, "2")].concat());
    assert_eq!(code, 1, "{options:?}: {errors}");
    assert!(!output.exists());
    let lines: Vec<&str> = errors.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("error: "), "not one sentence: {errors}");
    errors
}
