//! Text to token ids, and the vocabulary as GGUF metadata.
//!
//! A [`Tokenizer`] comes from a Hugging Face folder or from a GGUF file and splits text as llama.cpp does: special
//! tokens first, then each fragment by byte-level BPE (the `tokenizers` crate) or SentencePiece merges.

mod hf;
mod pretokenizer;
mod special;
mod spm;
mod vocab;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value as Json, json};

use crate::gguf::{Metadata, Value};
use spm::{SPACE, Spm};
pub use vocab::TokenType;
use vocab::{Kind, Vocab};

/// Turns text into token ids and back.
pub struct Tokenizer {
    vocab: Vocab,
    engine: Engine,
    /// Tokens found in text before anything else, longest first.
    specials: Vec<u32>,
    byte_of_char: HashMap<char, u8>,
}

enum Engine {
    Bpe(Box<tokenizers::Tokenizer>),
    Spm(Box<Spm>),
}

/// A stretch of the input: text still to be split, or a special token.
enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder.
    ///
    /// Errors: no tokenizer file, one that is malformed, or a kind that is not supported (WordPiece, Unigram ..).
    pub fn from_hf(dir: &Path) -> Result<Self> {
        let config_path = dir.join("config.json");
        let config = if config_path.is_file() { hf::read_json(&config_path)? } else { Json::Null };
        let folder = hf::Folder::read(dir, &config, None)?;
        let mut vocab = folder.vocab;
        vocab.apply_defaults();
        let engine = match (vocab.kind, folder.tokenizer) {
            (Kind::ByteLevelBpe, Some(mut tokenizer)) => {
                // Special tokens are cut out and BOS is added by this type, so the engine sees plain text only.
                tokenizer["added_tokens"] = json!([]);
                tokenizer["post_processor"] = Json::Null;
                tokenizer["truncation"] = Json::Null;
                tokenizer["padding"] = Json::Null;
                bpe(&tokenizer).with_context(|| hf::cannot_use(&dir.join("tokenizer.json")))?
            }
            _ => spm(&vocab),
        };
        Ok(Self::new(vocab, engine))
    }

    /// The tokenizer that a GGUF file's metadata describes.
    ///
    /// Errors: no tokenizer, a kind other than `gpt2` and `llama`, an unknown pre-tokenizer.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let vocab = Vocab::from_metadata(metadata)?;
        let engine = match vocab.kind {
            Kind::ByteLevelBpe => {
                let pre = pretokenizer::by_name(&vocab.pre).with_context(|| {
                    format!("the model's pre-tokenizer (`tokenizer.ggml.pre`) is not supported: `{}`", vocab.pre)
                })?;
                let ids: serde_json::Map<String, Json> =
                    vocab.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
                let merges: Vec<_> = vocab.merges.iter().filter_map(|m| split_merge(m)).collect();
                bpe(&json!({
                    "version": "1.0",
                    "added_tokens": [],
                    "normalizer": null,
                    "pre_tokenizer": pre.to_json(),
                    "post_processor": null,
                    "decoder": null,
                    "model": {
                        "type": "BPE", "vocab": ids, "merges": merges, "ignore_merges": pre.ignore_merges,
                        "byte_fallback": false, "fuse_unk": false,
                    },
                }))?
            }
            Kind::SentencePiece => spm(&vocab),
        };
        Ok(Self::new(vocab, engine))
    }

    fn new(vocab: Vocab, engine: Engine) -> Self {
        let is_special =
            |kind: TokenType| matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
        let mut specials: Vec<u32> = (0..vocab.tokens.len())
            .filter(|&id| is_special(vocab.types[id]) && !vocab.tokens[id].is_empty())
            .map(|id| id as u32)
            .collect();
        specials.sort_by_key(|&id| std::cmp::Reverse(vocab.tokens[id as usize].len()));
        let byte_of_char = (0..=255u8).map(|byte| (byte_char(byte), byte)).collect();
        Self { vocab, engine, specials, byte_of_char }
    }

    /// Token ids of `text`.
    ///
    /// `add_special` adds BOS and EOS where the vocabulary says so; `parse_special` lets control tokens written in
    /// the text (`<|im_start|>`) be tokens. Both mean what they mean in llama.cpp's `llama_tokenize`.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add_special && self.add_bos() {
            ids.extend(self.bos());
        }
        let mut after_special = true;
        for fragment in self.fragments(text, parse_special) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => self.encode_fragment(text, after_special, &mut ids)?,
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        if add_special && self.vocab.adds("eos") == Some(true) {
            ids.extend(self.eos());
        }
        Ok(ids)
    }

    fn encode_fragment(&self, text: &str, after_special: bool, ids: &mut Vec<u32>) -> Result<()> {
        match &self.engine {
            Engine::Bpe(bpe) => {
                let encoding = bpe.encode_fast(text, false).map_err(|e| anyhow!("cannot tokenize a text: {e}"))?;
                ids.extend_from_slice(encoding.get_ids());
            }
            Engine::Spm(spm) => {
                let prefix = if after_special && self.space_prefix() { SPACE } else { "" };
                spm.encode(&format!("{prefix}{}", text.replace(' ', SPACE)), ids);
            }
        }
        Ok(())
    }

    /// Cuts special tokens out of the text: the longest first, each wherever it occurs.
    fn fragments<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        let mut fragments = if text.is_empty() { Vec::new() } else { vec![Fragment::Text(text)] };
        for &id in &self.specials {
            if !parse_special && self.vocab.types[id as usize] != TokenType::UserDefined {
                continue;
            }
            let token = self.vocab.tokens[id as usize].as_str();
            if !text.contains(token) {
                continue;
            }
            let mut cut = Vec::new();
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => cut_out(text, token, id, &mut cut),
                    token => cut.push(token),
                }
            }
            fragments = cut;
        }
        fragments
    }

    /// The text of token ids; bytes that are not valid UTF-8 are replaced.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            let Some(token) = self.vocab.tokens.get(id as usize) else { continue };
            match (self.vocab.types[id as usize], self.vocab.kind) {
                (TokenType::Byte, _) => bytes.extend(byte_token(token)),
                (TokenType::Normal, Kind::ByteLevelBpe) => self.push_bytes(token, &mut bytes),
                (TokenType::Normal, Kind::SentencePiece) => bytes.extend(token.replace(SPACE, " ").bytes()),
                _ => bytes.extend(token.bytes()),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match text.strip_prefix(' ') {
            Some(rest) if self.vocab.kind == Kind::SentencePiece && self.space_prefix() => rest.to_string(),
            _ => text,
        }
    }

    fn push_bytes(&self, token: &str, bytes: &mut Vec<u8>) {
        for c in token.chars() {
            match self.byte_of_char.get(&c) {
                Some(&byte) => bytes.push(byte),
                None => bytes.extend(c.to_string().bytes()),
            }
        }
    }

    /// Number of tokens, padding included.
    pub fn vocab_size(&self) -> usize {
        self.vocab.tokens.len()
    }

    /// The text of a token as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocab.tokens.get(id as usize).map(String::as_str)
    }

    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.vocab.types.get(id as usize).copied()
    }

    pub fn bos(&self) -> Option<u32> {
        self.vocab.special_id("bos")
    }

    pub fn eos(&self) -> Option<u32> {
        self.vocab.special_id("eos")
    }

    /// Whether text starts with BOS when special tokens are added (and there is one).
    pub fn add_bos(&self) -> bool {
        self.vocab.adds("bos") == Some(true) && self.bos().is_some()
    }

    /// Texts of the control tokens, longest first.
    pub fn control_tokens(&self) -> impl Iterator<Item = &str> {
        let control = self.specials.iter().filter(|&&id| self.vocab.types[id as usize] == TokenType::Control);
        control.map(|&id| self.vocab.tokens[id as usize].as_str())
    }

    /// The id of a special token: `bos`, `eos`, `unk`, `sep`, `pad`, `mask` ..
    pub fn special(&self, kind: &str) -> Option<u32> {
        self.vocab.special_id(kind)
    }

    /// The default chat template, as Jinja source.
    pub fn chat_template(&self) -> Option<&str> {
        self.vocab.templates.default.as_deref()
    }

    /// A chat template for a purpose, such as `tool_use`.
    pub fn named_chat_template(&self, name: &str) -> Option<&str> {
        self.vocab.templates.named.iter().find(|(n, _)| n == name).map(|(_, template)| template.as_str())
    }

    /// Names of the chat templates for purposes.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.vocab.templates.named.iter().map(|(name, _)| name.as_str())
    }

    fn space_prefix(&self) -> bool {
        self.vocab.space_prefix.unwrap_or(true)
    }
}

fn cut_out<'a>(mut text: &'a str, token: &str, id: u32, fragments: &mut Vec<Fragment<'a>>) {
    while let Some(at) = text.find(token) {
        if at > 0 {
            fragments.push(Fragment::Text(&text[..at]));
        }
        fragments.push(Fragment::Token(id));
        text = &text[at + token.len()..];
    }
    if !text.is_empty() {
        fragments.push(Fragment::Text(text));
    }
}

fn bpe(tokenizer: &Json) -> Result<Engine> {
    let bpe = tokenizers::Tokenizer::from_bytes(tokenizer.to_string())
        .map_err(|e| anyhow!("the tokenizer cannot be built: {e}"))?;
    Ok(Engine::Bpe(Box::new(bpe)))
}

fn spm(vocab: &Vocab) -> Engine {
    Engine::Spm(Box::new(Spm::new(&vocab.tokens, &vocab.scores, vocab.special_id("unk"))))
}

/// "left right"; the left piece may itself start with a space.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let at = first + merge[first..].find(' ')?;
    Some((&merge[..at], &merge[at + 1..]))
}

/// The byte of a `<0x0A>` token.
fn byte_token(token: &str) -> Option<u8> {
    u8::from_str_radix(token.get(3..5)?, 16).ok()
}

/// The printable character that stands for a byte in GPT-2's alphabet.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let index = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(256 + index).expect("a code point below 512")
}

/// Every `tokenizer.*` key that llama.cpp's converter writes for a Hugging Face folder, in its order.
///
/// `config` is the folder's config.json, `vocab_rows` the height of the embedding matrix (the list of tokens is
/// padded to it with `[PAD{id}]`).
///
/// Errors: those of [`Tokenizer::from_hf`], and a pre-tokenizer that llama.cpp has no name for.
pub fn gguf_metadata(dir: &Path, config: &Json, vocab_rows: usize) -> Result<Vec<(String, Value)>> {
    let folder = hf::Folder::read(dir, config, Some(vocab_rows))?;
    let prefix = folder.vocab.space_prefix.map(|add| ("tokenizer.ggml.add_space_prefix".to_string(), Value::Bool(add)));
    let prefix_first = folder.space_prefix_first();
    if let Some(error) = folder.unknown_pre {
        return Err(error);
    }
    let mut keys = folder.vocab.to_metadata();
    match prefix {
        Some(key) if prefix_first => keys.insert(0, key),
        Some(key) => keys.push(key),
        None => {}
    }
    Ok(keys)
}
