//! Sources that can be read and would give wrong results in silence: vanishing embeddings, importance of another model, and
//! weights that are quantized already.

use std::fs;
use std::path::{Path, PathBuf};

use dq_gpu::gguf::{GgufFile, Value};
use dq_gpu::imatrix::Imatrix;
use safetensors::Dtype;
use serde_json::{Value as Json, json};

use super::model::{Folder, message, quantize, refusal, says};

/// The tokens around each message of a conversation: often untrained in base models.
const MARKS: [usize; 2] = [317, 318];
const EMBEDDING: &str = "model.embed_tokens.weight";
const WIDTH: usize = 32;

fn llama() -> Folder {
    Folder::of("llama-f32")
}

/// The same model as Qwen3, whose queries and keys have norms.
fn qwen() -> Folder {
    let mut folder = llama().set("architectures", json!(["Qwen3ForCausalLM"])).set("model_type", json!("qwen3"));
    for layer in 0..2 {
        for norm in ["q_norm", "k_norm"] {
            let ones: Vec<u8> = (0..16).flat_map(|_| 1f32.to_le_bytes()).collect();
            folder =
                folder.with(&format!("model.layers.{layer}.self_attn.{norm}.weight"), (Dtype::F32, vec![16], ones));
        }
    }
    folder
}

/// Scales the embeddings of [`MARKS`].
fn with_marks(folder: Folder, scale: f32) -> Folder {
    folder.change(EMBEDDING, |values| {
        for row in MARKS.map(|id| id * WIDTH..(id + 1) * WIDTH) {
            values[row].iter_mut().for_each(|value| *value *= scale);
        }
    })
}

fn number(report: &Json, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("no number under {key}: {report}"))
}

/// Predicted KL, measured KL, and bytes of the embedding.
fn planned(folder: Folder, options: &[&str]) -> (f64, f64, u64) {
    let folder = folder.write();
    let output = folder.at("out.gguf");
    let (report, said) = quantize(folder.path(), &output, &[&["--bpw", "6.5", "--chunks", "12"], options].concat());
    assert_eq!(said, "");
    let file = GgufFile::open(&output).unwrap();
    (number(&report, "predicted_kld"), number(&report, "measured_kld"), file.tensor("token_embd.weight").unwrap().bytes)
}

#[test]
fn embeddings_that_vanish_cost_what_others_do() {
    for model in [llama, qwen] {
        let (predicted, measured, bytes) = planned(model(), &[]);
        // what is left of these rows ranges from nothing over what f32 squares to nothing to what the norm's epsilon swallows
        for scale in [0.0, 1e-23, 1e-8, 1e-5, 1e-4, 1e-3] {
            let (other, real, room) = planned(with_marks(model(), scale), &[]);
            assert!(other < 2.0 * predicted && other > 0.4 * predicted, "{scale}: predicted {other}, not {predicted}");
            assert!(real < 1.5 * measured, "{scale}: measured {real}, not {measured}");
            assert!(room <= bytes * 5 / 4, "{scale}: {room} bytes of embedding, not {bytes}");
        }
    }
}

#[test]
fn probes_do_with_vanishing_embeddings_too() {
    let options = ["--sensitivity", "probes"];
    let (predicted, ..) = planned(llama(), &options);
    for scale in [0.0, 1e-23, 1e-5] {
        let (other, ..) = planned(with_marks(llama(), scale), &options);
        assert!(other < 2.0 * predicted && other > 0.4 * predicted, "{scale}: predicted {other}, not {predicted}");
    }
}

/// An importance matrix of a folder, changed and written again.
fn importance(folder: &Folder, name: &str, change: impl FnOnce(&mut Imatrix)) -> PathBuf {
    let path = folder.at(name);
    let (code, _, said) = super::model::run(&[
        "imatrix",
        folder.path().to_str().unwrap(),
        "-o",
        path.to_str().unwrap(),
        "--chunks",
        "4",
        "--ctx",
        "64",
        "--device",
        "cpu",
        "-q",
    ]);
    assert_eq!((code, said.as_str()), (0, ""));
    let mut imatrix = Imatrix::read(&path).unwrap();
    change(&mut imatrix);
    match name.ends_with(".dat") {
        true => imatrix.write_dat(&path).unwrap(),
        false => imatrix.write_gguf(&path).unwrap(),
    }
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn importance_of_another_model_is_refused() {
    let folder = llama().write();
    let wide = Folder::of("llama-tied").write();
    for name in ["wide.gguf", "wide.dat"] {
        let other = importance(&wide, name, |_| {});
        for options in [["--bpw", "7"], ["--pure", "Q8_0"], ["--type", "Q5_0"]] {
            let said = refusal(folder.path(), &[&options[..], &["--imatrix", text(&other)]].concat());
            says(
                &said,
                &["cannot use the importance matrix", "of another model", "64 values", "32 columns", "blk.", name],
            );
        }
    }
    let strange = importance(&folder, "strange.gguf", |imatrix| {
        let entries = std::mem::take(&mut imatrix.entries).into_iter();
        imatrix.entries = entries.map(|(name, entry)| (format!("enc.{name}"), entry)).collect();
    });
    let said = refusal(folder.path(), &["--pure", "Q8_0", "--imatrix", text(&strange)]);
    says(&said, &["none of its 15 entries is of use", "strange.gguf"]);
}

#[test]
fn tensors_without_importance_are_told_once_and_counted_out() {
    let folder = llama().write();
    let half = importance(&folder, "half.gguf", |imatrix| {
        imatrix.entries.retain(|name, _| !name.starts_with("blk.1."));
        // entries that saw nothing are none
        imatrix.entries.get_mut("output.weight").unwrap().counts = vec![0.0];
        let stray = imatrix.entries["blk.0.ffn_up.weight"].clone();
        imatrix.entries.insert("blk.7.ffn_up.weight".to_owned(), stray);
    });
    let output = folder.at("out.gguf");
    let (report, said) = quantize(folder.path(), &output, &["--pure", "Q8_0", "--imatrix", text(&half)]);
    assert_eq!(said.lines().count(), 1, "{said}");
    says(&said, &["no data for 8 tensors", "`output.weight`", "`blk.1.", "and 5 more", "half.gguf"]);
    let metadata = GgufFile::open(&output).unwrap().metadata;
    assert_eq!(metadata.u32("quantize.imatrix.entries_count"), Some(7));
    assert_eq!(metadata.str("quantize.imatrix.file"), Some(text(&half)));
    assert!(number(&report, "measured_kld") < 0.01);
    // q, k and v read the same, and one entry serves all
    let shared = importance(&folder, "shared.dat", |imatrix| {
        imatrix.entries.retain(|name, _| !name.ends_with("attn_k.weight") && !name.ends_with("ffn_gate.weight"));
    });
    let (_, said) = quantize(folder.path(), &output, &["--pure", "Q8_0", "--imatrix", text(&shared)]);
    assert_eq!(said, "");
}

/// Rows of 256 weights, which the smallest types need.
fn wide() -> Folder {
    let mut folder = llama().set("intermediate_size", json!(256));
    for layer in 0..2 {
        for (name, shape) in [("gate_proj", [256, 32]), ("up_proj", [256, 32]), ("down_proj", [32, 256])] {
            let values =
                (0..256 * 32u32).map(|i| ((i.wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0 - 0.5) / 4.0);
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            let name = format!("model.layers.{layer}.mlp.{name}.weight");
            folder = folder.with(&name, (Dtype::F32, shape.to_vec(), bytes));
        }
    }
    folder
}

#[test]
fn types_that_need_importance_are_not_given_without() {
    let folder = wide().write();
    let half =
        importance(&folder, "half.gguf", |imatrix| imatrix.entries.retain(|name, _| !name.starts_with("blk.1.")));
    for options in [&["--pure", "IQ2_XXS"][..], &["--bpw", "7", "--keep", "ffn_down=IQ1_S"]] {
        let said = refusal(folder.path(), &[options, &["--imatrix", text(&half)]].concat());
        says(&said, &["no data for 1 tensors", "which needs it", "`blk.1.ffn_down.weight`", "half.gguf"]);
    }
    // a plan leaves these types out there, and only there
    let outside = tempfile::tempdir().unwrap();
    let analysis = outside.path().join("a.json");
    let whole = importance(&folder, "whole.gguf", |_| {});
    let types = |imatrix: &Path, layer: usize| {
        let args = [
            "analyze",
            text(folder.path()),
            "-o",
            text(&analysis),
            "--imatrix",
            text(imatrix),
            "--types",
            "IQ2_XXS,Q2_K",
        ];
        let quick =
            ["--rounding", "search", "--effort", "fast", "--device", "cpu", "--ctx", "64", "--chunks", "2", "-q"];
        let (code, _, said) = super::model::run(&[&args[..], &quick].concat());
        assert_eq!(code, 0, "{said}");
        let json: Json = serde_json::from_str(&fs::read_to_string(&analysis).unwrap()).unwrap();
        let name = format!("blk.{layer}.ffn_down.weight");
        let tensor = json["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == name.as_str()).unwrap();
        let found = tensor["candidates"].as_array().unwrap().iter().map(|c| c["ty"].as_str().unwrap().to_owned());
        found.collect::<Vec<_>>()
    };
    // and those that stand in where rows are narrow
    assert_eq!(types(&whole, 1), ["Q4_0", "Q2_K", "IQ2_XXS", "IQ4_NL", "F32"]);
    assert_eq!(types(&half, 0), ["Q4_0", "Q2_K", "IQ2_XXS", "IQ4_NL", "F32"]);
    assert_eq!(types(&half, 1), ["Q4_0", "Q2_K", "IQ4_NL", "F32"]);
}

#[test]
fn a_quantized_source_is_quantized_again_on_demand_only() {
    let folder = llama().write();
    let (first, output) = (folder.at("q5.gguf"), folder.at("out.gguf"));
    quantize(folder.path(), &first, &["--pure", "Q5_0"]);
    for options in
        [&["--type", "Q8_0"][..], &["--pure", "Q4_0"], &["--bpw", "6"], &["--pure", "F16", "--keep", "output=Q4_0"]]
    {
        let said = refusal(&first, options);
        says(&said, &["quantized already (Q5_0)", "--allow-requantize", "q5.gguf"]);
        let (report, _) = quantize(&first, &output, &[options, &["--allow-requantize"]].concat());
        assert_eq!(report["quantized_source"], "Q5_0");
        let file = GgufFile::open(&output).unwrap();
        assert_eq!(file.metadata.get("dq_gpu.quantized_source"), Some(&Value::String("Q5_0".into())));
    }
    let args = ["quantize", text(&first), "--pure", "Q4_0", "--allow-requantize", "-o", text(&output)];
    let (_, shown, _) = super::model::run(&[&args[..], &["--device", "cpu", "--chunks", "1", "--ctx", "64"]].concat());
    says(&shown, &["quantized already (Q5_0)", "not to the model that it was made from"]);

    // floats only decode: nothing is quantized, and nothing lost
    for ty in ["F32", "BF16"] {
        let (report, said) = quantize(&first, &output, &["--pure", ty]);
        assert_eq!((said.as_str(), &report["quantized_source"]), ("", &Json::Null));
        assert!(!GgufFile::open(&output).unwrap().metadata.contains("dq_gpu.quantized_source"));
    }
    // floats are full precision, on whatever grid they lie
    for (ty, bytes) in [("F16", "f16.gguf"), ("F32", "f32.gguf")] {
        let floats = folder.at(bytes);
        quantize(&first, &floats, &["--pure", ty]);
        let (report, _) = quantize(&floats, &output, &["--pure", "Q4_0"]);
        assert!(number(&report, "measured_kld") > 0.0 && report["quantized_source"].is_null());
    }
}

#[test]
fn an_importance_matrix_is_a_file() {
    let folder = llama().write();
    says(&message(Imatrix::read(folder.path())), &["cannot use the importance matrix", "it is a folder"]);
}
