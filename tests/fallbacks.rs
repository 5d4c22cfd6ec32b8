//! Rows that are no whole number of blocks: which types such tensors get, and that every command says so.

use std::process::Command;

use assert_cmd::cargo::CommandCargoExt;
use dq_gpu::gguf::GgufFile;
use dq_gpu::quant::GgmlType;
use serde_json::Value;

/// Widths of the model's matrices: of those that read the hidden states, and of the down projections.
const HIDDEN: u64 = 96;
const FFN: u64 = 200;

struct Odd {
    folder: tempfile::TempDir,
}

impl Odd {
    /// A random model whose rows fit blocks of 32, or none.
    fn new() -> Odd {
        let odd = Odd { folder: tempfile::tempdir().unwrap() };
        let mut command = Command::new(env!("CARGO"));
        // in the profile of the test, in which it is built already
        command.args(["run", "--quiet", "--example", "random_model"]);
        command.args((!cfg!(debug_assertions)).then_some("--release"));
        command.args(["--", "--tokenizer"]);
        command.args(["tests/fixtures/models/llama-tied", "--vocab", "320", "--layers", "2"]);
        command.args(["--hidden", &HIDDEN.to_string(), "--ffn", &FFN.to_string(), &odd.at("model")]);
        assert!(command.status().unwrap().success());
        odd
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn quantize(&self, options: &[&str], json: bool) -> String {
        let quick = ["--device", "cpu", "--ctx", "64", "--chunks", "4", "-o"];
        let mut command = Command::cargo_bin("dq-gpu").unwrap();
        command.args(["quantize", &self.at("model")]).args(options).args(quick).arg(self.at("out.gguf"));
        command.args(json.then_some("--json"));
        printed(command)
    }

    fn types(&self) -> Vec<(u64, GgmlType)> {
        let file = GgufFile::open(self.at("out.gguf").as_ref()).unwrap();
        file.tensors.iter().filter(|t| t.dims.len() > 1).map(|t| (t.dims[0], t.ty)).collect()
    }
}

fn printed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_fallback_is_told_with_its_bits() {
    let odd = Odd::new();
    // as llama.cpp does: a legacy type where rows fit blocks of 32, else halves
    for (wanted, narrow) in [("Q4_K", GgmlType::Q5_0), ("IQ2_XS", GgmlType::IQ4_NL), ("Q6_K", GgmlType::Q8_0)] {
        let report: Value = serde_json::from_str(&odd.quantize(&["--pure", wanted], true)).unwrap();
        let used = |cols: u64| if cols == HIDDEN { narrow } else { GgmlType::F16 };
        assert!(odd.types().iter().all(|(cols, ty)| *ty == used(*cols)), "{wanted}: {:?}", odd.types());
        let notes = report["fallbacks"].as_array().unwrap();
        assert_eq!(notes.len(), odd.types().len(), "{wanted}");
        for note in notes {
            let down = note["tensor"].as_str().unwrap().contains("ffn_down");
            let used = used(if down { FFN } else { HIDDEN });
            assert_eq!((&note["wanted"], &note["used"]), (&wanted.into(), &used.name().into()));
            assert_eq!(note["wanted_bpw"], GgmlType::from_name(wanted).unwrap().bpw());
            assert_eq!(note["used_bpw"], used.bpw());
        }
        // the bits per weight of the whole are those of the types that were used
        let file = GgufFile::open(odd.at("out.gguf").as_ref()).unwrap();
        assert!((report["bpw"].as_f64().unwrap() - file.summary().bpw).abs() < 1e-9);
    }
    let text = odd.quantize(&["--pure", "Q4_K"], false);
    assert!(text.contains("Q4_K -> Q5_0, 5.5 instead of 4.5 bits per weight"), "{text}");
    assert!(text.contains("Q4_K -> F16, 16 instead of 4.5 bits per weight"), "{text}");

    let inspect = |json: bool| {
        let mut command = Command::cargo_bin("dq-gpu").unwrap();
        command.args(["inspect", &odd.at("out.gguf")]).args(json.then_some("--json"));
        printed(command)
    };
    let shown: Value = serde_json::from_str(&inspect(true)).unwrap();
    let notes = shown["fallbacks"].as_array().unwrap();
    assert_eq!(notes.len(), odd.types().len());
    for note in notes {
        let used = if note["columns"] == HIDDEN { GgmlType::Q5_0 } else { GgmlType::F16 };
        assert_eq!((&note["used"], &note["used_bpw"]), (&used.name().into(), &used.bpw().into()));
    }
    let text = inspect(false);
    assert!(text.contains("Q5_0, 5.5 bits per weight") && text.contains("F16, 16 bits per weight"), "{text}");
}

#[test]
fn listed_types_that_do_not_fit_are_fallbacks_too() {
    let odd = Odd::new();
    let report: Value = serde_json::from_str(&odd.quantize(&["--bpw", "9", "--types", "Q4_K,Q8_0"], true)).unwrap();
    let notes = report["fallbacks"].as_array().unwrap();
    let replaced = odd.types().iter().filter(|(_, ty)| matches!(ty, GgmlType::Q5_0 | GgmlType::F16)).count();
    assert!(replaced > 0);
    assert_eq!(notes.len(), replaced, "{notes:?}");
    assert!(notes.iter().all(|note| note["wanted"] == "Q4_K" || note["wanted"] == "Q8_0"), "{notes:?}");
}
