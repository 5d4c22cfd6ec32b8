//! Model folders as people have them: what is fine is taken, and of the rest it is said what to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dq_gpu::gguf::GgufFile;
use dq_gpu::source::Model;
use safetensors::Dtype;
use serde_json::json;

use super::model::{Folder, Stored, fixture, message, quantize, refusal, says, write_safetensors};

fn llama() -> Folder {
    Folder::of("llama-f32")
}

/// Fails unless both folders give the same tensors, in whatever order.
#[track_caller]
fn assert_same(folder: &Path, original: &Path) {
    let (model, original) = (Model::open(folder).unwrap(), Model::open(original).unwrap());
    assert_eq!(model.tensors.len(), original.tensors.len());
    assert_eq!(model.hparams, original.hparams);
    for tensor in &original.tensors {
        let other = model.require(&tensor.name).unwrap();
        assert!(model.bytes(other).unwrap() == original.bytes(tensor).unwrap(), "{}", tensor.name);
    }
}

fn zeros(ty: Dtype, shape: &[usize]) -> Stored {
    (ty, shape.to_vec(), vec![0; shape.iter().product::<usize>() * ty.bitsize() / 8])
}

#[test]
fn names_need_no_prefix() {
    let mut folder = llama();
    folder.tensors = folder
        .tensors
        .into_iter()
        .map(|(name, stored)| (name.strip_prefix("model.").unwrap_or(&name).to_owned(), stored))
        .collect();
    assert!(folder.tensors.contains_key("layers.0.mlp.up_proj.weight"));
    let folder = folder.write();
    assert_same(folder.path(), &fixture("llama-f32"));
    let (_, said) = quantize(folder.path(), &folder.at("out.gguf"), &["--pure", "Q8_0"]);
    assert_eq!(said, "");
}

#[test]
fn unknown_tensors_are_one_warning_whatever_their_type() {
    let folder = llama()
        .with("model.embed_tokens.position_ids", zeros(Dtype::I64, &[1, 512]))
        .with("model.layers.0.self_attn.mask", zeros(Dtype::BOOL, &[4, 4]))
        .with("model.layers.0.self_attn.scales", zeros(Dtype::F64, &[3]))
        .with("model.layers.0.extra.weight", zeros(Dtype::F32, &[3, 3]))
        // known to hold no weights: not even told
        .with("model.layers.0.self_attn.rotary_emb.inv_freq", zeros(Dtype::F64, &[8]))
        .with("rotary_emb.inv_freq", zeros(Dtype::F32, &[8]))
        .write();
    assert_same(folder.path(), &fixture("llama-f32"));
    let (_, said) = quantize(folder.path(), &folder.at("out.gguf"), &["--pure", "Q8_0"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    says(&said, &["warning: unknown tensors are left out, 4 of them: ", "`model.layers.0.extra.weight`", "and 1 more"]);
    assert!(!said.contains("inv_freq"), "{said}");
    // but weights of such a type are no weights that can be read
    let packed = llama().with("model.layers.1.mlp.up_proj.weight", zeros(Dtype::F64, &[64, 32])).write();
    says(&packed.refused(), &["`model.layers.1.mlp.up_proj.weight` has the unsupported type F64"]);
}

#[test]
fn a_whole_file_counts_and_not_a_stale_index_or_another_variant() {
    let folder = llama().write();
    let map: BTreeMap<&String, &str> =
        folder.tensors.keys().map(|name| (name, "model-00001-of-00002.safetensors")).collect();
    fs::write(folder.at("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    for variant in ["model.fp16.safetensors", "consolidated.safetensors", "pytorch_model.bin"] {
        fs::write(folder.at(variant), "not looked at").unwrap();
    }
    assert_same(folder.path(), &fixture("llama-f32"));
    let (_, said) = quantize(folder.path(), &folder.at("out.gguf"), &["--pure", "Q8_0"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    says(&said, &["`model.safetensors` holds the weights", "index"]);
    // one variant alone is the model; of two nothing says which
    fs::remove_file(folder.at("model.safetensors.index.json")).unwrap();
    fs::rename(folder.at("model.safetensors"), folder.at("model.fp16.safetensors")).unwrap();
    assert_same(folder.path(), &fixture("llama-f32"));
    fs::copy(folder.at("model.fp16.safetensors"), folder.at("model.bf16.safetensors")).unwrap();
    says(&folder.refused(), &["several sets of weights", "`model.bf16.safetensors`", "`model.fp16.safetensors`"]);
}

#[test]
fn parts_without_an_index_are_taken_when_all_are_there() {
    let folder = llama().write();
    fs::remove_file(folder.at("model.safetensors")).unwrap();
    let mut halves = [BTreeMap::new(), BTreeMap::new()];
    for (place, (name, stored)) in folder.tensors.clone().into_iter().enumerate() {
        halves[place % 2].insert(name, stored);
    }
    write_safetensors(&folder.at("model-00001-of-00002.safetensors"), &halves[0]);
    says(&folder.refused(), &["files of the model are missing", "`model-00001-of-00002.safetensors`"]);
    write_safetensors(&folder.at("model-00002-of-00002.safetensors"), &halves[1]);
    assert_same(folder.path(), &fixture("llama-f32"));
}

#[test]
fn a_tied_output_that_is_there_is_compared() {
    let tied = || Folder::of("llama-tied");
    let embedding = tied().tensors["model.embed_tokens.weight"].clone();
    let repeated = tied().with("lm_head.weight", embedding.clone()).write();
    assert_same(repeated.path(), &fixture("llama-tied"));
    let (_, said) = quantize(repeated.path(), &repeated.at("out.gguf"), &["--pure", "Q8_0"]);
    assert_eq!(said, "");

    let mut other = embedding;
    other.2[0] ^= 1;
    let untied = tied().with("lm_head.weight", other.clone()).write();
    let model = Model::open(untied.path()).unwrap();
    assert!(model.bytes(model.require("output.weight").unwrap()).unwrap() == other.2);
    let (_, said) = quantize(untied.path(), &untied.at("out.gguf"), &["--pure", "Q8_0"]);
    says(&said, &["ties the output to the embedding, but `lm_head.weight` is there and differs: it is used"]);

    let absent = llama().without("lm_head.weight").write();
    says(&absent.refused(), &["no tensor `lm_head.weight`", "set `tie_word_embeddings` to true"]);
}

#[test]
fn folders_that_are_no_model_say_what_they_are() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:a1a1\nsize 16794064\n";
    for name in ["model.safetensors", "tokenizer.json"] {
        let folder = llama().write();
        fs::write(folder.at(name), POINTER).unwrap();
        says(&folder.refused(), &["git-lfs pointer", "`git lfs pull`", name]);
    }
    let pointer = llama();
    fs::write(pointer.at("m.gguf"), POINTER).unwrap();
    says(&message(Model::open(&pointer.at("m.gguf"))), &["git-lfs pointer", "m.gguf"]);

    let adapter = llama();
    fs::write(adapter.at("adapter_config.json"), r#"{"base_model_name_or_path": "some/base"}"#).unwrap();
    fs::write(adapter.at("adapter_model.safetensors"), "").unwrap();
    says(&adapter.refused(), &["an adapter (LoRA), not a model", "merge it into its base model `some/base`"]);

    let torch = llama().write();
    fs::rename(torch.at("model.safetensors"), torch.at("pytorch_model.bin")).unwrap();
    says(&torch.refused(), &["only `pytorch_model.bin`", "save the model as safetensors"]);
    fs::rename(torch.at("pytorch_model.bin"), torch.at("consolidated.00.safetensors")).unwrap();
    says(&torch.refused(), &["only `consolidated.00.safetensors`", "format of Hugging Face"]);

    let gguf = llama();
    fs::write(gguf.at("model-Q8_0.gguf"), "").unwrap();
    says(&gguf.refused(), &["to read a GGUF give its path", "model-Q8_0.gguf`"]);
}

#[test]
fn weights_that_others_quantized_are_named() {
    let up = "model.layers.1.mlp.up_proj.weight";
    let settings = [
        (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "bitsandbytes"),
        (json!({"load_in_8bit": true}), "bitsandbytes"),
        (json!({"quant_method": "gptq", "bits": 4}), "GPTQ"),
        (json!({"quant_method": "awq"}), "AWQ"),
        (json!({"quant_method": "fp8"}), "FP8"),
        (json!({"quant_method": "compressed-tensors"}), "compressed-tensors"),
    ];
    for (config, name) in settings {
        let packed = llama().set("quantization_config", config.clone());
        let packed = packed.with(up, zeros(Dtype::U8, &[1024, 1])).write();
        says(&packed.refused(), &["quantized already, by", name, "full-precision model", up]);
        let renamed = llama().set("quantization_config", config.clone()).without(up);
        let renamed = renamed.with("model.layers.1.mlp.up_proj.qweight", zeros(Dtype::I32, &[4, 64])).write();
        says(&renamed.refused(), &["quantized already, by", name, up]);
    }
    // what is there in full precision is taken, whatever the config tells
    let whole = llama().set("quantization_config", json!({"quant_method": "torchao"})).write();
    let (_, said) = quantize(whole.path(), &whole.at("out.gguf"), &["--pure", "Q8_0"]);
    says(&said, &["tells of torchao", "in full precision"]);
    assert_same(whole.path(), &fixture("llama-f32"));
}

#[test]
fn a_file_or_a_name_in_place_of_the_folder_is_told() {
    let folder = llama().write();
    let shown = folder.path().display().to_string();
    fs::write(folder.at("model.safetensors.index.json"), "{}").unwrap();
    for name in ["model.safetensors", "model.safetensors.index.json", "config.json"] {
        let said = refusal(&folder.at(name), &["--pure", "Q8_0"]);
        says(&said, &["give the folder that it is in", &format!("`{shown}`"), name]);
    }
    fs::write(folder.at("pytorch_model.bin"), "PK").unwrap();
    says(&refusal(&folder.at("pytorch_model.bin"), &["--pure", "Q8_0"]), &["safetensors first"]);
    says(&refusal(Path::new("Qwen/Qwen3-8B"), &["--pure", "Q8_0"]), &["`Qwen/Qwen3-8B`", "`hf download Qwen/Qwen3-8B"]);
}

#[test]
fn layers_are_not_made_before_the_file_can_hold_them() {
    let folder = llama().set("num_hidden_layers", json!(60_000)).write();
    says(&folder.refused(), &["60000 layers", "holds 21 tensors"]);
    let folder = llama().set("num_hidden_layers", json!(1u64 << 24)).write();
    says(&folder.refused(), &["`num_hidden_layers` is 16777216, which is not from 1 to 65536", "config.json"]);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let folder = llama().write();
    let gguf = folder.at("model.gguf");
    quantize(folder.path(), &gguf, &["--pure", "BF16"]);
    for (model, file) in [(folder.path(), folder.at("model.safetensors")), (&gguf, gguf.clone())] {
        let model = Model::open(model).unwrap();
        let tensor = model.tensors.iter().rfind(|tensor| tensor.dims.len() > 1).unwrap();
        assert_eq!(model.f32_rows(tensor, 0..tensor.rows).unwrap().len(), tensor.rows * tensor.cols);
        fs::File::options().write(true).open(&file).unwrap().set_len(4096).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        for said in [message(model.f32_rows(tensor, 0..tensor.rows)), message(model.bytes(tensor))] {
            says(&said, &["cut short while it was read", name]);
        }
        says(&message(model.fingerprint()), &["cut short while it was read", name]);
    }
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    const FILES: [&str; 5] =
        ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"];

    fn whole() -> Folder {
        let folder = llama().write();
        fs::write(folder.at("generation_config.json"), "{}").unwrap();
        fs::write(folder.at("README.md"), "---\nlicense: mit\n---\n").unwrap();
        folder
    }

    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let elsewhere = tempfile::tempdir().unwrap();
        for name in FILES {
            let folder = whole();
            let target = elsewhere.path().join(name);
            fs::rename(folder.at(name), &target).unwrap();
            symlink(&target, folder.at(name)).unwrap();
            says(&folder.refused(), &["a link that leads out of the model folder", name]);
            // inside is fine
            fs::remove_file(folder.at(name)).unwrap();
            fs::create_dir(folder.at("inside")).unwrap();
            fs::rename(&target, folder.at("inside").join(name)).unwrap();
            symlink(Path::new("inside").join(name), folder.at(name)).unwrap();
            Model::open(folder.path()).unwrap();
        }
        let folder = whole();
        let templates = elsewhere.path().join("templates");
        fs::create_dir(&templates).unwrap();
        fs::write(elsewhere.path().join("x.jinja"), "").unwrap();
        symlink(elsewhere.path().join("x.jinja"), templates.join("x.jinja")).unwrap();
        fs::rename(&templates, folder.at("additional_chat_templates")).unwrap();
        says(&folder.refused(), &["a link that leads out of the model folder", "x.jinja"]);
        // nor may a folder in it be one
        fs::rename(folder.at("additional_chat_templates"), &templates).unwrap();
        fs::remove_file(templates.join("x.jinja")).unwrap();
        fs::write(templates.join("x.jinja"), "").unwrap();
        symlink(&templates, folder.at("additional_chat_templates")).unwrap();
        says(&folder.refused(), &["a link that leads out of the model folder", "x.jinja"]);
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        for name in FILES {
            let folder = whole();
            fs::remove_file(folder.at(name)).unwrap();
            assert!(Command::new("mkfifo").arg(folder.at(name)).status().unwrap().success());
            says(&folder.refused(), &["a device, a pipe or a socket", name]);
            fs::remove_file(folder.at(name)).unwrap();
            symlink(name, folder.at(name)).unwrap();
            says(&folder.refused(), &["cannot open the file", name]);
            fs::remove_file(folder.at(name)).unwrap();
            symlink("nothing", folder.at(name)).unwrap();
            says(&folder.refused(), &["a link to something that does not exist", name]);
        }
        let folder = whole();
        assert!(Command::new("mkfifo").arg(folder.at("model.gguf")).status().unwrap().success());
        says(&message(Model::open(&folder.at("model.gguf"))), &["a device, a pipe or a socket"]);
        says(&message(Model::open(Path::new("/dev/zero"))), &["a device, a pipe or a socket"]);
    }

    #[test]
    fn a_snapshot_of_the_cache_is_a_model_with_the_name_of_its_repository() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--Some-Org--Tiny-1B-Chat");
        let snapshot = repository.join("snapshots/0123456789abcdef0123456789abcdef01234567");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir(repository.join("blobs")).unwrap();
        let folder = whole();
        for (number, name) in FILES.into_iter().chain(["tokenizer_config.json"]).enumerate() {
            fs::rename(folder.at(name), repository.join(format!("blobs/{number:040x}"))).unwrap();
            symlink(format!("../../blobs/{number:040x}"), snapshot.join(name)).unwrap();
        }
        assert_same(&snapshot, &fixture("llama-f32"));
        let mut command = assert_cmd::Command::cargo_bin("dq-gpu").unwrap();
        command.args(["quantize", snapshot.to_str().unwrap(), "--pure", "F16", "--chunks", "1", "--ctx", "64"]);
        command.args(["--device", "cpu", "-q"]).current_dir(cache.path()).assert().success();
        let written =
            fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let written: Vec<String> = written.filter(|name| name.ends_with(".gguf")).collect();
        assert!(written.len() == 1 && written[0].starts_with("Tiny-1B-Chat-"), "{written:?}");
        let output = cache.path().join(&written[0]);
        let file = GgufFile::open(&output).unwrap();
        assert_eq!(file.metadata.str("general.name"), Some("Tiny 1B Chat"));
        assert_eq!(file.metadata.str("general.organization"), Some("Some Org"));
    }
}
