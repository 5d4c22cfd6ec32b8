//! Tokenizer files that disagree, that are something else, or that hold what is no text.

use std::path::{Path, PathBuf};

use dq_gpu::gguf::{GgufFile, GgufWriter, Metadata, Value};
use dq_gpu::tokenizer::{TokenType, Tokenizer, gguf_metadata};
use serde_json::{Value as Json, json};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of a small SentencePiece model of 960 rows, with files of one's own.
fn spm_folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join("tests/data/tokenizer/spm")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn config(dir: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
}

fn written(dir: &Path, rows: usize) -> Tokenizer {
    let keys = gguf_metadata(dir, &config(dir), rows).unwrap();
    Tokenizer::from_gguf(&keys.into_iter().collect()).unwrap()
}

#[test]
fn tokens_that_only_tokenizer_json_adds_are_tokens() {
    let added = json!({"added_tokens": [
        {"id": 0, "content": "<unk>", "special": true},
        {"id": 957, "content": "<|im_start|>", "special": true},
        {"id": 958, "content": "<tool\u{2581}call>", "special": false},
        {"id": 5000, "content": "<|past|>", "special": true},
    ]});
    let dir = spm_folder(&[("tokenizer.json", added.to_string().as_bytes())]);
    let tokenizer = written(dir.path(), 960);
    let token = |id| (tokenizer.token(id).unwrap().to_owned(), tokenizer.token_type(id).unwrap());
    assert_eq!(token(957), ("<|im_start|>".to_owned(), TokenType::Control));
    assert_eq!(token(958), ("<tool call>".to_owned(), TokenType::UserDefined));
    assert_eq!(token(959), ("[PAD959]".to_owned(), TokenType::Unused));
    assert_eq!(tokenizer.vocab_size(), 960);
    assert_eq!(tokenizer.encode("<|im_start|>", false, true).unwrap(), [957]);
    assert_eq!(tokenizer.encode("<tool call>", false, false).unwrap(), [958]);
    let plain = written(&root().join("tests/data/tokenizer/spm"), 960);
    assert_eq!((tokenizer.token_type(0), tokenizer.token(0)), (plain.token_type(0), plain.token(0)));
}

#[test]
fn tokenizer_json_stands_in_for_a_model_that_is_something_else() {
    let right = written(&root().join("tests/data/tokenizer/spm-json"), 960);
    let json = std::fs::read(root().join("tests/data/tokenizer/spm-json/tokenizer.json")).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for other in [&b"IQ== 0\nIg== 1\n"[..], pointer, b"", b"\n\x07"] {
        let dir = spm_folder(&[("tokenizer.json", &json), ("tokenizer.model", other)]);
        let text = "The lighthouse keeper waited.";
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, true, false).unwrap();
        assert_eq!(ids(&written(dir.path(), 960)), ids(&right));
        std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        let error = format!("{:#}", gguf_metadata(dir.path(), &config(dir.path()), 960).unwrap_err());
        assert!(error.contains("tokenizer.model"), "{error}");
    }
}

/// One piece of a `tokenizer.model`: text (1), score (2), type (3).
fn piece(text: &str, kind: u8) -> Vec<u8> {
    let mut piece = vec![0x0a, text.len() as u8];
    piece.extend(text.as_bytes());
    piece.extend([0x15, 0, 0, 0, 0, 0x18, kind]);
    let mut field = vec![0x0a, piece.len() as u8];
    field.extend(piece);
    field
}

#[test]
fn user_defined_pieces_stay_so() {
    let mut model: Vec<u8> = [
        piece("<unk>", 2),
        piece("<s>", 3),
        piece("</s>", 3),
        piece("<table>", 4),
        piece("\u{2581}\u{2581}", 4),
        piece("x", 1),
        piece("\u{2581}", 1),
    ]
    .concat();
    // trainer (2): type (3) is BPE; normalizer (3): no space in front (3)
    model.extend([0x12, 2, 0x18, 2, 0x1a, 2, 0x18, 0]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.model"), model).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), "\u{feff}{\"add_prefix_space\": false, \"x\": NaN}")
        .unwrap();
    let config = json!({"architectures": ["LlamaForCausalLM"]});
    let keys = gguf_metadata(dir.path(), &config, 7).unwrap();
    let tokenizer = Tokenizer::from_gguf(&keys.into_iter().collect()).unwrap();
    let types: Vec<_> = (0..7).map(|id| tokenizer.token_type(id).unwrap() as i32).collect();
    assert_eq!(types, [2, 3, 3, 4, 4, 1, 1]);
    assert_eq!(tokenizer.encode("x<table>  x x", false, false).unwrap(), [5, 3, 4, 5, 6, 5]);
    assert_eq!(tokenizer.decode(&[5, 3, 4, 5]), "x<table>  x");
}

/// A GGUF whose third token is half a character and whose fourth is a private code point.
#[test]
fn tokens_that_are_no_text_are_written_as_they_were_read() {
    let tokens: [&[u8]; 4] = [b"a", "\u{e9}".as_bytes(), b"\xe2\x96", "\u{10ffff}".as_bytes()];
    let key = b"tokenizer.ggml.tokens";
    let mut list = Vec::new();
    list.extend((key.len() as u64).to_le_bytes());
    list.extend(key);
    list.extend(9u32.to_le_bytes());
    list.extend(8u32.to_le_bytes());
    list.extend((tokens.len() as u64).to_le_bytes());
    for token in tokens {
        list.extend((token.len() as u64).to_le_bytes());
        list.extend(token);
    }
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend(&list);
    file.resize(file.len().next_multiple_of(32), 0);
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.gguf"), dir.path().join("to.gguf"));
    std::fs::write(&from, &file).unwrap();
    let metadata: Metadata = GgufFile::open(&from).unwrap().metadata.clone();
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap()[..2], ["a", "\u{e9}"]);
    GgufWriter::new(&to, &metadata, &[]).unwrap().finish().unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), file);
    let mut named = metadata;
    named.set("tokenizer.ggml.model", Value::String("llama".into()));
    let tokenizer = Tokenizer::from_gguf(&named).unwrap();
    assert_eq!(tokenizer.encode("\u{e9}a", false, false).unwrap().last(), Some(&0));
}
