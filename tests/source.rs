//! Models from outside: folders and GGUF files say the same, and say clearly what is wrong with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dq_gpu::arch::rope::{Rope, Scaling, Yarn};
use dq_gpu::arch::tensor_class::{Class, importance_names, layer_index, may_quantize};
use dq_gpu::gguf::{Array, GgufFile, GgufWriter, TensorPlan, Value};
use dq_gpu::graph::WeightUse;
use dq_gpu::kernels::rope::RopeStyle;
use dq_gpu::quant::GgmlType;
use dq_gpu::source::{Model, Tensor, Weights};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

#[path = "source/packed.rs"]
mod packed;

fn sample(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = if name.starts_with("tiny-") { "models" } else { "tests/fixtures/models" };
    root.join(folder).join(name)
}

/// Writes a model as it is.
fn write(model: &Weights, path: &Path) {
    let plans: Vec<TensorPlan> = model.tensors.iter().map(Tensor::plan).collect();
    let mut writer = GgufWriter::new(path, &model.metadata, &plans).unwrap();
    for tensor in &model.tensors {
        writer.write_tensor(&tensor.name, &model.bytes(tensor).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

fn message<T>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.err().expect("an error"))
}

/// CRC-32 as in zlib, which the fixtures are made with.
fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|byte| (0..8).fold(byte, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }))
        .collect();
    !bytes.iter().fold(!0, |crc, byte| table[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

/// Type names and value of a key, as Python's reader tells them.
fn as_python(value: &Value) -> Json {
    match value {
        Value::U32(v) => json!([["UINT32"], v]),
        Value::I32(v) => json!([["INT32"], v]),
        Value::F32(v) => json!([["FLOAT32"], f64::from(*v)]),
        Value::Bool(v) => json!([["BOOL"], v]),
        Value::String(v) => json!([["STRING"], v]),
        Value::Array(Array::Bool(v)) => json!([["ARRAY", "BOOL"], v]),
        Value::Array(Array::String(v)) => json!([["ARRAY", "STRING"], v]),
        other => panic!("{other:?}"),
    }
}

/// Models of which there is what llama.cpp's converter makes of them.
const CONVERTED: &[&str] = &[
    "tiny-llama",
    "tiny-qwen3",
    "gemma3",
    "qwen2",
    "qwen3moe",
    "mixtral",
    "cohere2",
    "fused-longrope",
    "fused-qkv",
    "gemma2",
    "glm4",
    "glm4moe",
    "gptoss",
    "granite",
    "granitemoe",
    "olmo2",
    "olmo3",
    "qwen2moe",
    "qwen3next",
    "smollm3",
    "deepseek2",
    "deepseek-v2",
];

/// llama.cpp's converter wrote the fixtures: `tests/interop/converter.py`.
#[test]
fn folders_become_what_the_converter_writes() {
    for name in CONVERTED {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.gguf");
        let model = Model::open(&sample(name)).unwrap();
        write(&model, &path);
        let file = GgufFile::open(&path).unwrap();

        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/converter/{name}.json"));
        let fixture: Json = serde_json::from_str(&std::fs::read_to_string(fixture).unwrap()).unwrap();
        let keys = file.metadata.iter().filter(|(key, _)| !key.starts_with("tokenizer."));
        let keys: Vec<Json> = keys
            .map(|(key, value)| {
                let value = as_python(value);
                json!([key, value[0], value[1]])
            })
            .collect();
        let mut wanted = fixture["keys"].as_array().unwrap().clone();
        if name == &"fused-longrope" {
            // the converter writes one key when it makes the tensors of factors, before all others
            let key = wanted.remove(1);
            assert_eq!(key[0], "phi3.rope.scaling.attn_factor");
            let last = wanted.iter().position(|key| key[0] == "phi3.attention.sliding_window").unwrap();
            wanted.insert(last + 1, key);
        }
        assert_eq!(keys, wanted, "{name}");
        let tensors = file.tensors.iter().map(|t| json!([t.name, t.ty.name(), t.dims, crc32(&file.data(t).unwrap())]));
        assert_eq!(Json::from(tensors.collect::<Vec<_>>()), fixture["tensors"], "{name}");
        assert!(
            file.metadata.strings("tokenizer.ggml.tokens").is_some_and(|tokens| tokens.len() == model.hparams.n_vocab)
        );
    }
}

#[test]
fn a_gguf_is_the_folder_it_came_from() {
    for name in CONVERTED {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.gguf");
        let from_folder = Model::open(&sample(name)).unwrap();
        write(&from_folder, &path);
        let from_gguf = Model::open(&path).unwrap();
        assert_eq!(from_gguf.metadata, from_folder.metadata);
        assert_eq!(from_gguf.hparams, from_folder.hparams);
        assert_eq!(from_gguf.output_tensor(), from_folder.output_tensor());
        for (a, b) in from_folder.tensors.iter().zip(&from_gguf.tensors) {
            assert_eq!((&a.name, a.rows, a.cols, &a.dims, a.ty), (&b.name, b.rows, b.cols, &b.dims, b.ty));
            let rows = a.rows / 3..a.rows;
            assert_eq!(
                from_folder.f32_rows(a, rows.clone()).unwrap(),
                from_gguf.f32_rows(b, rows).unwrap(),
                "{}",
                a.name
            );
        }
        assert_ne!(from_folder.fingerprint().unwrap(), "");
        assert_eq!(from_folder.fingerprint().unwrap(), Model::open(&sample(name)).unwrap().fingerprint().unwrap());
    }
}

/// The program that reads GGUF in Python, where `DQ_GPU_PYTHON` names an interpreter that has the package `gguf`.
#[test]
fn the_python_reader_sees_the_same_tensors() {
    let Ok(python) = std::env::var("DQ_GPU_PYTHON") else { return };
    let script = "import sys, zlib, json; from gguf import GGUFReader\n\
        print(json.dumps([[t.name, t.tensor_type.name, [int(d) for d in t.shape], zlib.crc32(t.data.tobytes())] for t in GGUFReader(sys.argv[1]).tensors]))";
    for name in ["tiny-llama", "tiny-qwen3"] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.gguf");
        let model = Model::open(&sample(name)).unwrap();
        write(&model, &path);
        let output = std::process::Command::new(&python).args(["-c", script]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Json = serde_json::from_slice(&output.stdout).unwrap();
        let tensors =
            model.tensors.iter().map(|t| json!([t.name, t.ty.name(), t.dims, crc32(&model.bytes(t).unwrap())]));
        assert_eq!(seen, Json::from(tensors.collect::<Vec<_>>()));
    }
}

/// A copy of a sample model whose config and tensors can be changed.
struct Copy {
    folder: TempDir,
    config: Json,
    /// Type, shape and bytes.
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Copy {
    fn of(name: &str) -> Copy {
        let folder = TempDir::new().unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] {
            if sample(name).join(file).exists() {
                std::fs::copy(sample(name).join(file), folder.path().join(file)).unwrap();
            }
        }
        let config = std::fs::read_to_string(sample(name).join("config.json")).unwrap();
        let bytes = std::fs::read(sample(name).join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors
            .iter()
            .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
            .collect();
        Copy { folder, config: serde_json::from_str(&config).unwrap(), tensors }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn set(mut self, key: &str, value: Json) -> Copy {
        self.config[key] = value;
        self
    }

    fn without(mut self, tensor: &str) -> Copy {
        self.tensors.remove(tensor).unwrap();
        self
    }

    fn write(&self) {
        std::fs::write(self.path().join("config.json"), self.config.to_string()).unwrap();
        self.write_file("model.safetensors", |_| true);
    }

    fn write_file(&self, file: &str, wanted: impl Fn(usize) -> bool) {
        let chosen = self.tensors.iter().enumerate().filter(|(place, _)| wanted(*place));
        let views = chosen
            .map(|(_, (name, (ty, shape, bytes)))| (name.clone(), TensorView::new(*ty, shape.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &self.path().join(file)).unwrap();
    }

    /// Writes the model as two files and an index.
    fn write_sharded(&self) {
        self.write();
        std::fs::remove_file(self.path().join("model.safetensors")).unwrap();
        let file = |place: usize| format!("model-0000{}-of-00002.safetensors", place % 2 + 1);
        for shard in 0..2 {
            self.write_file(&file(shard), |place| place % 2 == shard);
        }
        let map: BTreeMap<&String, String> =
            self.tensors.keys().enumerate().map(|(place, name)| (name, file(place))).collect();
        let index = json!({ "weight_map": map });
        std::fs::write(self.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    fn open(&self) -> anyhow::Result<Model> {
        self.write();
        Model::open(self.path())
    }

    /// What opening the model says.
    fn message(&self) -> String {
        let message = message(self.open());
        assert!(message.contains(&self.path().display().to_string()), "no path in: {message}");
        message
    }
}

/// Folders of `Gemma3ForConditionalGeneration`, as transformers 4 and 5 save them.
#[test]
fn of_a_multimodal_folder_the_text_part_is_taken() {
    let plain = Copy::of("gemma3").open().unwrap();
    let names: [fn(&str) -> String; 2] =
        [|name| format!("language_model.{name}"), |name| name.replace("model.", "model.language_model.")];
    for (style, name) in names.iter().enumerate() {
        let mut copy = Copy::of("gemma3");
        copy.tensors = copy.tensors.into_iter().map(|(key, tensor)| (name(&key), tensor)).collect();
        for other in ["vision_tower.vision_model.post_layernorm.bias", "multi_modal_projector.mm_soft_emb_norm.weight"]
        {
            copy.tensors.insert(other.to_owned(), (Dtype::BF16, vec![2], vec![0; 4]));
        }
        let mut text = copy.config.as_object().unwrap().clone();
        // transformers' default
        text.remove("tie_word_embeddings");
        text.remove("architectures");
        copy.config = json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "vision_config": {"hidden_size": 8},
            "text_config": text,
        });
        let model = copy.open().unwrap();
        assert_eq!(model.hparams, plain.hparams);
        let keys = |model: &Model| -> Vec<(String, Value)> {
            let keys = model.metadata.iter().filter(|(key, _)| !key.starts_with("general."));
            keys.map(|(key, value)| (key.to_owned(), value.clone())).collect()
        };
        assert_eq!(keys(&model), keys(&plain));
        assert_eq!(model.tensors.len(), plain.tensors.len());
        for tensor in &plain.tensors {
            let other = model.require(&tensor.name).unwrap();
            let same = (other.ty, &other.dims, model.bytes(other).unwrap());
            assert_eq!(
                same,
                (tensor.ty, &tensor.dims, plain.bytes(tensor).unwrap()),
                "{} in style {style}",
                tensor.name
            );
        }
    }
}

/// What llama.cpp would run in another way, for want of a key.
#[test]
fn gemma_that_a_gguf_cannot_tell_is_refused() {
    for (key, value) in [
        ("sliding_window_pattern", json!(4)),
        ("layer_types", json!(["full_attention"])),
        ("query_pre_attn_scalar", json!(100)),
        ("final_logit_softcapping", json!(30.0)),
        ("use_bidirectional_attention", json!(true)),
    ] {
        let message = Copy::of("gemma3").set(key, value).message();
        assert!(message.contains(&format!("`{key}`")) && message.contains("Gemma 3"), "{message}");
    }
}

#[test]
fn shards_hold_the_same_model() {
    let copy = Copy::of("tiny-qwen3");
    copy.write_sharded();
    let sharded = Model::open(copy.path()).unwrap();
    let whole = Model::open(&sample("tiny-qwen3")).unwrap();
    assert_eq!(sharded.tensors.len(), whole.tensors.len());
    for tensor in &whole.tensors {
        let other = sharded.require(&tensor.name).unwrap();
        assert_eq!(sharded.bytes(other).unwrap(), whole.bytes(tensor).unwrap());
    }
}

#[test]
fn broken_folders_are_refused_in_a_sentence() {
    let says = |copy: Copy, parts: &[&str]| {
        let message = copy.message();
        for part in parts {
            assert!(message.contains(part), "`{message}` does not say `{part}`");
        }
    };
    let llama = || Copy::of("tiny-llama");
    let k_proj = "model.layers.3.self_attn.k_proj.weight";
    says(llama().without(k_proj), &["no tensor", k_proj]);
    says(llama().without("lm_head.weight"), &["no tensor", "lm_head.weight"]);
    says(llama().set("num_key_value_heads", json!(4)), &["k_proj.weight", "[128, 256]", "config.json says [256, 256]"]);
    says(llama().set("vocab_size", json!(5000)), &["[4096, 256]", "config.json says [5000, 256]"]);
    says(llama().set("num_attention_heads", json!(3)), &["3 heads cannot share 2"]);
    says(llama().set("hidden_size", json!("wide")), &["`hidden_size` is not a whole number"]);
    says(llama().set("num_hidden_layers", json!(0)), &["`num_hidden_layers` is not a whole number above 0"]);
    says(llama().set("hidden_act", json!("gelu")).set("_", json!(0)), &["`hidden_act`", "gelu"]);
    says(
        llama().set("architectures", json!(["FooForCausalLM"])),
        &["FooForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM"],
    );
    says(llama().set("architectures", json!(null)), &["names no model architecture"]);
    let unknown = json!({ "rope_type": "ntk", "factor": 2.0 });
    says(llama().set("rope_parameters", unknown), &["`ntk`", "yarn"]);
    let longrope = json!({ "rope_type": "longrope", "long_factor": [2.0], "short_factor": [1.0] });
    says(llama().set("rope_parameters", longrope), &["longrope", "llama"]);
    says(llama().set("rope_scaling", json!({ "type": "linear" })), &["`factor`"]);

    let mut integers = llama();
    let (_, shape, bytes) = integers.tensors[k_proj].clone();
    integers.tensors.insert(k_proj.into(), (Dtype::I16, shape, bytes));
    says(integers, &[k_proj, "unsupported type I16"]);
}

#[test]
fn damaged_folders_are_refused_in_a_sentence() {
    let copy = Copy::of("tiny-qwen3");
    copy.write();
    let weights = copy.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    for len in [0, 7, 8, 1000, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&weights, &bytes[..len]).unwrap();
        let message = message(Model::open(copy.path()));
        assert!(message.contains("cut short or damaged") && message.contains("model.safetensors"), "{len}: {message}");
    }
    std::fs::remove_file(&weights).unwrap();
    assert!(message(Model::open(copy.path())).contains("no `model*.safetensors`"));
    std::fs::write(copy.path().join("config.json"), "{").unwrap();
    assert!(message(Model::open(copy.path())).contains("cannot parse"));
    std::fs::remove_file(copy.path().join("config.json")).unwrap();
    assert!(message(Model::open(copy.path())).contains("no config.json"));
    assert!(message(Model::open(&copy.path().join("nothing"))).contains("no such file or folder"));

    copy.write_sharded();
    let second = copy.path().join("model-00002-of-00002.safetensors");
    copy.write_file("model-00002-of-00002.safetensors", |place| place % 2 == 1 && place > 1);
    let absent = message(Model::open(copy.path()));
    assert!(absent.contains("not in the file that the index names") && absent.contains("00002-of-00002"), "{absent}");
    std::fs::remove_file(second).unwrap();
    let missing = message(Model::open(copy.path()));
    assert!(missing.contains("file of the model is missing") && missing.contains("00002-of-00002"), "{missing}");
}

#[test]
fn weights_that_are_not_numbers_are_named() {
    for bits in [0x7fc0u16, 0x7f80, 0xff80] {
        let mut copy = Copy::of("tiny-llama");
        let (_, _, bytes) = copy.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
        bytes[2 * (256 * 5 + 7)..][..2].copy_from_slice(&bits.to_le_bytes());
        let model = copy.open().unwrap();
        let tensor = model.require("blk.1.ffn_up.weight").unwrap();
        assert!(model.f32_rows(tensor, 0..5).is_ok());
        let message = message(model.f32_rows(tensor, 3..10));
        assert!(message.contains("`blk.1.ffn_up.weight`") && message.contains("row 5, column 7"), "{message}");
    }
}

/// Heads are reordered from halves to pairs, in weights and biases alike.
#[test]
fn llama_queries_and_keys_are_paired() {
    let mut copy = Copy::of("tiny-llama").set("attention_bias", json!(true));
    for (stem, rows) in [("q_proj", 256), ("k_proj", 128), ("v_proj", 128), ("o_proj", 256)] {
        for il in 0..8 {
            let name = format!("model.layers.{il}.self_attn.{stem}.bias");
            let values = (0..rows).flat_map(|row| half::bf16::from_f32(row as f32).to_le_bytes()).collect();
            copy.tensors.insert(name, (Dtype::BF16, vec![rows], values));
        }
    }
    let model = copy.open().unwrap();
    let bias = |name: &str| model.f32_rows(model.require(name).unwrap(), 0..1).unwrap();
    let paired: Vec<f32> = (0..2)
        .flat_map(|head| (0..32).flat_map(move |i| [64 * head + i, 64 * head + 32 + i]))
        .map(|row| row as f32)
        .collect();
    assert_eq!(bias("blk.0.attn_k.bias"), paired);
    assert_eq!(bias("blk.0.attn_v.bias"), (0..128).map(|row| row as f32).collect::<Vec<_>>());
    let weight = model.require("blk.0.attn_q.weight").unwrap();
    assert_eq!(weight.ty, GgmlType::BF16);
    let rows = model.f32_rows(weight, 0..256).unwrap();
    let (_, _, source) = &copy.tensors["model.layers.0.self_attn.q_proj.weight"];
    let source: Vec<f32> = source.as_chunks().0.iter().map(|word| half::bf16::from_le_bytes(*word).to_f32()).collect();
    assert_eq!(rows[256..512], source[32 * 256..33 * 256], "row 1 of a head is its element 32");
    let layer = model.layer(0);
    let is_bias = |tensor: &WeightUse| matches!(tensor, WeightUse::Vector(name) if name.ends_with(".bias"));
    assert_eq!(layer.weights().filter(is_bias).count(), 4);
}

#[test]
fn layers_are_lists_of_operations() {
    let model = Model::open(&sample("tiny-qwen3")).unwrap();
    let layer = model.layer(2);
    let stem = |tensor| match tensor {
        WeightUse::Matrix(name) | WeightUse::Stack(name) | WeightUse::Vector(name) => {
            name.replace("blk.2.", "").replace(".weight", "")
        }
    };
    let names: Vec<String> = layer.weights().map(stem).collect();
    let expected = [
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_q_norm",
        "attn_k_norm",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    assert_eq!(names, expected);
    let operations: Vec<&str> = layer.operations().collect();
    let expected = [
        "norm",
        "linear",
        "linear",
        "linear",
        "norm",
        "norm",
        "rope",
        "rope",
        "attention",
        "linear",
        "norm",
        "linear",
        "linear",
        "gated",
        "linear",
    ];
    assert_eq!(operations, expected);
    assert_eq!(model.hparams.rope.style, RopeStyle::Neox);
    let llama = Model::open(&sample("tiny-llama")).unwrap();
    assert_eq!((llama.output_tensor(), llama.hparams.rope.style), ("output.weight", RopeStyle::Norm));
    assert_eq!((llama.hparams.q_width(), llama.hparams.k_width(), llama.hparams.n_vocab), (256, 128, 4096));
}

#[test]
fn mistral_attends_within_its_window() {
    let mistral = |window: Json| {
        let copy =
            Copy::of("tiny-llama").set("architectures", json!(["MistralForCausalLM"])).set("sliding_window", window);
        let model = copy.open().unwrap();
        assert!(!model.metadata.contains("llama.attention.sliding_window"), "llama.cpp's converter writes no such key");
        model.hparams.window
    };
    assert_eq!(mistral(json!(64)), Some(64));
    assert_eq!(mistral(json!(null)), None);
}

#[test]
fn files_that_are_no_model_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    let mut model = Model::open(&sample("tiny-llama")).unwrap();
    model.weights.metadata.set("general.architecture", "mamba");
    write(&model, &path);
    let unknown = message(Model::open(&path));
    assert!(
        unknown.contains("a.gguf") && unknown.contains("`mamba` (known: cohere2, deepseek2, gemma2, gemma3, "),
        "{unknown}"
    );
    assert_eq!(Weights::open(&path).unwrap().tensors.len(), 75, "the weights can be read all the same");

    model.weights.metadata.set("general.architecture", "llama");
    model.weights.metadata.set("llama.feed_forward_length", 512u32);
    write(&model, &path);
    let shape = message(Model::open(&path));
    assert!(
        shape.contains("blk.0.ffn_gate.weight") && shape.contains("[256, 768]") && shape.contains("[256, 512]"),
        "{shape}"
    );

    model.weights.metadata.remove("llama.block_count");
    write(&model, &path);
    assert!(message(Model::open(&path)).contains("missing: `llama.block_count`"));
}

#[test]
fn quantized_tensors_are_decoded() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    let model = Model::open(&sample("tiny-llama")).unwrap();
    let plans: Vec<TensorPlan> = model
        .tensors
        .iter()
        .map(|tensor| {
            let ty = if may_quantize(&tensor.name, &tensor.dims, "llama") { GgmlType::Q8_0 } else { tensor.ty };
            TensorPlan { ty, ..tensor.plan() }
        })
        .collect();
    let mut writer = GgufWriter::new(&path, &model.metadata, &plans).unwrap();
    for (tensor, plan) in model.tensors.iter().zip(&plans) {
        let mut bytes = vec![0; plan.bytes().unwrap() as usize];
        let values = model.f32_rows(tensor, 0..tensor.rows).unwrap();
        dq_gpu::quant::encode(plan.ty, &values, &vec![1.0; tensor.cols], &mut bytes).unwrap();
        writer.write_tensor(&plan.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    let quantized = Model::open(&path).unwrap();
    let tensor = quantized.require("blk.7.ffn_down.weight").unwrap();
    assert_eq!((tensor.ty, tensor.row_bytes()), (GgmlType::Q8_0, 768 / 32 * 34));
    let (a, b) =
        (model.f32_rows(tensor_of(&model, tensor), 9..11).unwrap(), quantized.f32_rows(tensor, 9..11).unwrap());
    let largest = a.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= largest / 127.0) && a != b);
}

fn tensor_of<'a>(model: &'a Model, tensor: &Tensor) -> &'a Tensor {
    model.require(&tensor.name).unwrap()
}

fn rope(scaling: Scaling) -> Rope {
    Rope { style: RopeStyle::Neox, rot: 8, freq_base: 10_000.0, attn_factor: 1.0, original_context: 512, scaling }
}

fn angle(table: &[f32], position: usize, pair: usize) -> f64 {
    let at = (position * 4 + pair) * 2;
    f64::from(table[at + 1]).atan2(f64::from(table[at]))
}

#[test]
fn rope_tables_hold_cosines_and_sines() {
    let table = rope(Scaling::None).table(3, None);
    assert_eq!(table.len(), 3 * 8);
    assert_eq!(&table[..8], [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    for (pair, frequency) in [1.0, 0.1, 0.01, 0.001].into_iter().enumerate() {
        assert!((angle(&table, 2, pair) - 2.0 * frequency).abs() < 1e-6);
    }
    let linear = rope(Scaling::Linear { factor: 4.0 }).table(9, None);
    assert_eq!(&linear[8 * 8..], &rope(Scaling::None).table(3, None)[2 * 8..]);
    let divided = rope(Scaling::None).table(3, Some(&[1.0, 2.0, 4.0, 8.0]));
    assert!((angle(&divided, 2, 2) - 0.005).abs() < 1e-8);
}

/// Values of transformers' `_compute_yarn_parameters` for a head of 16, theta 10000, factor 4, original context 512.
#[test]
fn yarn_is_that_of_transformers() {
    let yarn = Yarn {
        factor: 4.0,
        ext_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
        log_multiplier: 0.0,
    };
    let rope = |yarn| Rope { rot: 16, ..rope(Scaling::Yarn(yarn)) };
    let table = rope(yarn.clone()).table(2, None);
    let expected: [f64; 8] = YARN_FREQUENCIES;
    for (pair, frequency) in expected.into_iter().enumerate() {
        let (cos, sin) = (f64::from(table[16 + 2 * pair]), f64::from(table[17 + 2 * pair]));
        assert!((sin.atan2(cos) - frequency).abs() < 1e-6, "{pair}: {} {frequency}", sin.atan2(cos));
        assert!((cos.hypot(sin) - YARN_MAGNITUDE).abs() < 1e-6);
    }
    let given = rope(Yarn { attention_factor: Some(1.25), ..yarn }).table(1, None);
    assert_eq!(given[0], 1.25);
}
const YARN_MAGNITUDE: f64 = 1.138629436111989;
const YARN_FREQUENCIES: [f64; 8] = [
    1.0,
    0.2569350600242615,
    0.0625,
    0.013834965415298939,
    0.0024999999441206455,
    0.0007905694656074047,
    0.0002500000118743628,
    7.905694656074047e-05,
];

#[test]
fn names_tell_what_tensors_are() {
    assert_eq!(Class::of("token_embd.weight"), Class::TokenEmbd);
    assert_eq!(Class::of("output.weight"), Class::Output);
    assert_eq!(Class::of("blk.12.attn_v.weight"), Class::AttnV);
    assert_eq!(Class::of("blk.12.ffn_down_exps.weight"), Class::FfnDown);
    assert_eq!(Class::of("blk.12.attn_v.bias"), Class::Other);
    assert_eq!(Class::of("blk.12.ssm_alpha.weight"), Class::Other);
    assert_eq!((layer_index("blk.12.attn_v.weight"), layer_index("output.weight")), (Some(12), None));
    let siblings = ["blk.1.attn_k.weight", "blk.1.attn_q.weight", "blk.1.attn_v.weight", "blk.1.attn_qkv.weight"];
    assert_eq!(importance_names("blk.1.attn_k.weight"), siblings);
    assert_eq!(importance_names("blk.1.ffn_down.weight"), ["blk.1.ffn_down.weight"]);
}

#[test]
fn llama_cpp_says_what_may_be_quantized() {
    let may = |name: &str, dims: &[u64]| may_quantize(name, dims, "llama");
    assert!(may("blk.0.attn_q.weight", &[256, 256]));
    assert!(may("token_embd.weight", &[256, 4096]) && may("output.weight", &[256, 4096]));
    assert!(may("blk.0.ffn_down_exps.weight", &[256, 64, 8]));
    assert!(!may("blk.0.attn_norm.weight", &[256]) && !may("blk.0.attn_q_norm.weight", &[64, 8]));
    assert!(!may("blk.0.attn_q.bias", &[256, 2]) && !may("blk.0.attn_q.weight", &[256, 1]));
    assert!(!may("blk.0.ffn_gate_inp.weight", &[256, 8]) && !may("blk.0.ssm_conv1d.weight", &[4, 256]));
    assert!(!may("position_embd.weight", &[256, 512]) && !may("v.blk.0.rel_pos_h.weight", &[2, 2]));
    assert!(may("blk.0.attn_k_b.weight", &[2, 2]) && !may_quantize("blk.0.attn_k_b.weight", &[2, 2], "glm5-next"));
}
