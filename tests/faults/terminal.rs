//! Control characters of files and arguments: nothing that people read acts on their terminal.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use dq_gpu::gguf::{Array, GgufWriter, Metadata, TensorPlan, Value};
use dq_gpu::imatrix::{Entry, Imatrix};
use dq_gpu::quant::GgmlType;

/// Clears a screen, sets a title, reverses a line; in seven bits and in eight.
const EVIL: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\r\n\u{8}";

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dq-gpu")).args(args).output().unwrap()
}

/// Fails if a stream holds a character that acts, other than the ends of our own lines.
fn assert_harmless(args: &[&str], output: &Output) -> String {
    let text =
        [&output.stdout[..], &output.stderr[..]].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).concat();
    let acting =
        |c: &char| c.is_control() && *c != '\n' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert_eq!(text.chars().find(acting), None, "{args:?}: {text:?}");
    text
}

fn gguf(path: &Path, name: &str, metadata: &[(&str, Value)]) {
    let mut all = Metadata::new();
    for (key, value) in metadata {
        all.set(*key, value.clone());
    }
    let plan = TensorPlan { name: name.to_owned(), dims: vec![32], ty: GgmlType::F32 };
    let mut writer = GgufWriter::new(path, &all, &[plan]).unwrap();
    writer.write_tensor(name, &[0; 128]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn names_and_metadata_are_shown_and_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil.gguf");
    let string = || Value::String(EVIL.to_owned());
    let metadata = [
        ("general.architecture", string()),
        (EVIL, Value::U32(1)),
        ("general.name", string()),
        ("tokenizer.chat_template", string()),
        ("list", Value::Array(Array::String(vec![EVIL.to_owned()]))),
    ];
    gguf(&path, EVIL, &metadata);
    let file = path.to_str().unwrap();
    let shown = assert_harmless(&["inspect"], &run(&["inspect", file]));
    assert!(shown.contains(r"\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}"), "{shown}");
    let json = assert_harmless(&["inspect", "--json"], &run(&["inspect", file, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["tensors"][0]["name"], &json["metadata"]["general.name"]), (&EVIL.into(), &EVIL.into()));
    let refused = run(&["quantize", file, "--pure", "Q8_0", "--device", "cpu", "-o", "/nowhere/x"]);
    assert_harmless(&["quantize"], &refused);
    // a report that names the architecture, which is as good as any other
    let out = folder.path().join("out.gguf");
    let args = ["quantize", file, "--pure", "Q8_0", "--device", "cpu", "-vv", "-o", out.to_str().unwrap()];
    for json in [&[][..], &["--json"]] {
        let args = [&args[..], json].concat();
        let made = run(&args);
        assert_eq!(made.status.code(), Some(0), "{args:?}");
        assert_harmless(&args, &made);
    }
    // errors that name it
    for args in [
        vec!["quantize", file, "--bpw", "4", "--rounds", "1", "--device", "cpu", "-o", out.to_str().unwrap()],
        vec!["kld", file, file, "--device", "cpu"],
        vec!["imatrix", "--merge", file, "-o", out.to_str().unwrap()],
    ] {
        let refused = run(&args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert_harmless(&args, &refused);
    }
}

#[test]
fn importance_matrices_safetensors_and_analyses_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let entry = Entry { sum2: vec![1.0], sum: None, counts: vec![0.0] };
    // short enough for the name of a tensor
    let imatrix = Imatrix {
        entries: [("\u{1b}[2J\u{202e}".to_owned(), entry)].into(),
        datasets: vec![EVIL.to_owned()],
        chunk_size: 64,
        ..Imatrix::default()
    };
    let (file, merged, legacy) = (at("evil.gguf"), at("merged.gguf"), at("evil.dat"));
    imatrix.write_gguf(Path::new(&file)).unwrap();
    let header = serde_json::json!({EVIL: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "__metadata__": {EVIL: EVIL}})
    .to_string();
    let content = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
    let safetensors = at("evil.safetensors");
    fs::write(&safetensors, content).unwrap();
    for args in [
        vec!["inspect", &file],
        vec!["imatrix", "--merge", &file, "-o", &merged],
        vec!["imatrix", "--merge", &file, "-o", &legacy],
        vec!["inspect", &safetensors],
        vec!["inspect", &safetensors, "--json"],
    ] {
        let output = run(&args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_harmless(&args, &output);
    }
    let analysis = at("evil.json");
    fs::write(&analysis, format!("{{\"version\": {}", serde_json::to_string(EVIL).unwrap())).unwrap();
    let args = ["plan", &analysis, "--bpw", "4", "-o", &at("plan.json")];
    assert_harmless(&args, &run(&args));
}

#[test]
fn paths_and_arguments_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let evil = folder.path().join("\u{1b}[2J\n\u{9b}31m");
    let path = evil.to_str().unwrap();
    let out = folder.path().join("out.gguf").to_str().unwrap().to_owned();
    for (args, code) in [
        (vec!["inspect", path], 1),
        (vec!["quantize", path, "--bpw", "4"], 1),
        (vec!["devices", path], 2),
        (vec![path], 2),
        (vec!["quantize", "model", "--size", path], 2),
        (vec!["quantize", "model", "--bpw", "4", "--keep", path], 2),
        (vec!["quantize", "models/tiny-llama", "--pure", "Q8_0", "--device", path, "-o", &out], 1),
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let shown = assert_harmless(&args, &output);
        // clap leaves whole sequences out
        assert!(shown.contains(r"\u{9b}31m"), "{args:?}: {shown}");
    }
    fs::copy("tests/fixtures/models/llama-tied/model.safetensors", &evil).unwrap();
    let args = ["inspect", path];
    let shown = assert_harmless(&args, &run(&args));
    assert!(shown.contains(r"\u{1b}[2J\n\u{9b}31m"), "{shown}");
}
