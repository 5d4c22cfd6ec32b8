//! The tokenizer against Hugging Face's, SentencePiece's and llama.cpp's.
//!
//! Fixtures (`tests/data/tokenizer`): `*.vocab.gguf` are the files that llama.cpp's `convert_hf_to_gguf.py
//! --vocab-only` writes; `expected.json` holds ids from the `tokenizers` and `sentencepiece` Python packages;
//! `spm` is a small SentencePiece BPE model and `spm-json` the same vocabulary as a `tokenizer.json`.

use std::path::{Path, PathBuf};

use dq_gpu::gguf::{GgufFile, Metadata, Value};
use dq_gpu::tokenizer::{TokenType, Tokenizer, gguf_metadata};
use serde_json::Value as Json;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn data(name: &str) -> PathBuf {
    root().join("tests/data/tokenizer").join(name)
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn expected(kind: &str) -> Vec<(String, Vec<u32>)> {
    serde_json::from_value(json(&data("expected.json"))[kind].clone()).unwrap()
}

fn tokenizer_keys(metadata: &Metadata) -> Vec<(String, Value)> {
    let keys = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
    keys.map(|(key, value)| (key.to_string(), value.clone())).collect()
}

fn written(dir: &Path, rows: usize) -> Vec<(String, Value)> {
    gguf_metadata(dir, &json(&dir.join("config.json")), rows).unwrap()
}

#[track_caller]
fn assert_same_keys(ours: &[(String, Value)], theirs: &[(String, Value)]) {
    let names = |keys: &[(String, Value)]| keys.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(names(ours), names(theirs));
    for ((key, a), (_, b)) in ours.iter().zip(theirs) {
        assert!(a == b, "{key} differs");
    }
}

#[test]
fn byte_level_keys_are_those_of_the_converter() {
    for model in ["tiny-llama", "tiny-qwen3"] {
        let theirs = GgufFile::open(&data(&format!("{model}.vocab.gguf"))).unwrap();
        assert_same_keys(&written(&root().join("models").join(model), 4096), &tokenizer_keys(&theirs.metadata));
    }
}

#[test]
fn sentencepiece_keys_are_those_of_the_converter() {
    let theirs = GgufFile::open(&data("spm.vocab.gguf")).unwrap();
    assert_same_keys(&written(&data("spm"), 960), &tokenizer_keys(&theirs.metadata));
}

#[test]
fn the_folder_and_its_metadata_tokenize_alike() {
    for dir in [root().join("models/tiny-llama"), root().join("models/tiny-qwen3"), data("spm"), data("spm-json")] {
        let rows = if dir.starts_with(data("")) { 960 } else { 4096 };
        let folder = Tokenizer::from_hf(&dir).unwrap();
        let file = Tokenizer::from_gguf(&written(&dir, rows).into_iter().collect()).unwrap();
        for (text, _) in expected("byte_level") {
            for (add, parse) in [(false, false), (true, true), (false, true)] {
                let ids = folder.encode(&text, add, parse).unwrap();
                assert_eq!(ids, file.encode(&text, add, parse).unwrap(), "{text:?} in {}", dir.display());
            }
        }
        assert_eq!(folder.chat_template(), file.chat_template());
        assert_eq!((folder.bos(), folder.eos(), folder.add_bos()), (file.bos(), file.eos(), file.add_bos()));
    }
}

#[test]
fn byte_level_ids_are_those_of_hugging_face() {
    for model in ["tiny-llama", "tiny-qwen3"] {
        let tokenizer = Tokenizer::from_hf(&root().join("models").join(model)).unwrap();
        for (text, ids) in expected("byte_level") {
            assert_eq!(tokenizer.encode(&text, false, true).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

#[test]
fn sentencepiece_ids_are_those_of_sentencepiece() {
    for dir in ["spm", "spm-json"] {
        let tokenizer = Tokenizer::from_hf(&data(dir)).unwrap();
        for (text, ids) in expected("sentencepiece") {
            assert_eq!(tokenizer.encode(&text, false, false).unwrap(), ids, "{text:?} in {dir}");
            assert_eq!(tokenizer.decode(&ids), text, "{dir}");
        }
    }
}

#[test]
fn special_tokens_are_parsed_only_when_asked() {
    let tokenizer = Tokenizer::from_hf(&root().join("models/tiny-llama")).unwrap();
    let (start, end) = (4093, 4094);
    let parsed = tokenizer.encode("<|im_start|>user<|im_end|>", false, true).unwrap();
    assert_eq!((parsed[0], *parsed.last().unwrap()), (start, end));
    let plain = tokenizer.encode("<|im_start|>user<|im_end|>", false, false).unwrap();
    assert!(plain.iter().all(|&id| id < 4092), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain), "<|im_start|>user<|im_end|>");
    assert_eq!(tokenizer.token_type(start), Some(TokenType::Control));
}

#[test]
fn bos_is_added_when_the_vocabulary_says_so() {
    let llama = Tokenizer::from_hf(&root().join("models/tiny-llama")).unwrap();
    assert!(!llama.add_bos());
    assert_eq!(llama.encode("x", true, false).unwrap(), llama.encode("x", false, false).unwrap());
    let spm = Tokenizer::from_hf(&data("spm")).unwrap();
    assert!(spm.add_bos());
    assert_eq!(spm.encode("", true, false).unwrap(), [1]);
    assert!(spm.encode("", false, false).unwrap().is_empty());
    assert_eq!(spm.encode("x", true, false).unwrap()[0], 1);
}

#[test]
fn sentencepiece_puts_a_space_after_special_tokens_and_parses_user_defined_ones() {
    let tokenizer = Tokenizer::from_hf(&data("spm")).unwrap();
    let hello = tokenizer.encode("Hello", false, false).unwrap();
    let mut chat = vec![1, 900];
    chat.extend(&hello);
    chat.push(901);
    assert_eq!(tokenizer.encode("<s>[INST]Hello[/INST]", false, true).unwrap(), chat);
    // [/INST] is no control token, so plain text holds it too.
    assert_eq!(tokenizer.encode("Hello[/INST]", false, false).unwrap(), [&hello[..], &[901]].concat());
}

#[test]
fn a_list_of_tokens_is_padded_to_the_embedding() {
    let keys = written(&root().join("models/tiny-llama"), 4100);
    let metadata: Metadata = keys.into_iter().collect();
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(&tokens[4095..], ["<|pad|>", "[PAD4096]", "[PAD4097]", "[PAD4098]", "[PAD4099]"]);
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_type(4097)), (4100, Some(TokenType::Unused)));
}

#[test]
fn an_embedding_that_is_too_small_is_refused() {
    let dir = root().join("models/tiny-llama");
    let error = gguf_metadata(&dir, &json(&dir.join("config.json")), 4000).unwrap_err().to_string();
    assert!(error.contains("4096 tokens") && error.contains("4000 rows"), "{error}");
}

fn folder_with(edit: impl Fn(&mut Json)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = root().join("models/tiny-llama");
    let mut tokenizer = json(&source.join("tokenizer.json"));
    edit(&mut tokenizer);
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for file in ["config.json", "tokenizer_config.json"] {
        std::fs::copy(source.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn error_of(dir: &Path) -> String {
    format!("{:#}", gguf_metadata(dir, &json(&dir.join("config.json")), 4096).unwrap_err())
}

#[test]
fn an_unknown_pre_tokenizer_is_refused_with_its_regex_but_still_tokenizes() {
    let dir = folder_with(|t| t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "q+|.".into());
    let error = error_of(dir.path());
    assert!(error.contains("tokenizer.json") && error.contains("q+|."), "{error}");
    assert!(!Tokenizer::from_hf(dir.path()).unwrap().encode("hello", false, false).unwrap().is_empty());
}

#[test]
fn other_kinds_of_tokenizer_are_refused_by_name() {
    let dir = folder_with(|t| t["model"]["type"] = "Unigram".into());
    assert!(error_of(dir.path()).contains("Unigram"));
    let empty = tempfile::tempdir().unwrap();
    assert!(Tokenizer::from_hf(empty.path()).is_err());
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", Value::String("t5".into()));
    assert!(Tokenizer::from_gguf(&metadata).err().unwrap().to_string().contains("t5"));
}

#[test]
fn the_post_processor_decides_whether_bos_is_added() {
    let dir = folder_with(|t| {
        t["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        });
    });
    let tokenizer = Tokenizer::from_hf(dir.path()).unwrap();
    assert!(tokenizer.add_bos());
    assert_eq!(tokenizer.encode("a", true, false).unwrap()[0], 4092);
}

#[test]
fn spaces_in_merges_are_escaped() {
    let dir = folder_with(|t| {
        let merges = t["model"]["merges"].as_array_mut().unwrap();
        merges.push(serde_json::json!(["a b", "c"]));
        t["model"]["vocab"]["a b"] = 4096.into();
        t["model"]["vocab"]["a bc"] = 4097.into();
    });
    let keys: Metadata = written(dir.path(), 4098).into_iter().collect();
    assert_eq!(keys.strings("tokenizer.ggml.merges").unwrap().last().unwrap(), "a\u{120}b c");
}

/// `DQ_GPU_LLAMA_CPP=/path/to/llama.cpp cargo test --test tokenizer -- --ignored`
#[test]
#[ignore = "needs llama.cpp's source tree for its vocabularies and expected ids"]
fn llama_cpp_vocabularies_tokenize_as_llama_cpp_expects() {
    let tree = PathBuf::from(std::env::var_os("DQ_GPU_LLAMA_CPP").expect("DQ_GPU_LLAMA_CPP is set"));
    let names = [
        "llama-bpe",
        "llama-spm",
        "phi-3",
        "qwen2",
        "qwen35",
        "deepseek-llm",
        "deepseek-coder",
        "falcon",
        "gpt-2",
        "mpt",
        "refact",
        "starcoder",
        "command-r",
    ];
    for name in names {
        let path = tree.join(format!("models/ggml-vocab-{name}.gguf"));
        let tokenizer = Tokenizer::from_gguf(&GgufFile::open(&path).unwrap().metadata).unwrap();
        let read = |suffix: &str| std::fs::read_to_string(format!("{}.{suffix}", path.display())).unwrap();
        let (texts, ids) = (read("inp"), read("out"));
        let mut wrong = 0;
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        for (text, ids) in texts.iter().zip(ids.lines()) {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let ours = tokenizer.encode(text, false, false).unwrap();
            if ours != ids {
                wrong += 1;
                eprintln!("{name}: {text:?}\n  ours   {ours:?}\n  theirs {ids:?}");
            }
        }
        assert_eq!(wrong, 0, "{name}: {wrong} of {}", texts.len());
        eprintln!("{name}: {} texts", texts.len());
    }
}
