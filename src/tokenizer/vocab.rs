//! A vocabulary as GGUF metadata describes it: tokens, types, special ids, flags and chat templates.

use anyhow::{Context, Result, bail, ensure};

use super::pretokenizer;
use crate::gguf::{Array, Metadata, Value};

/// Kind of a token, with the numbers of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    fn from_id(id: i32) -> Self {
        match id {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// How pieces are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `gpt2`: merges over bytes written as printable characters.
    ByteLevelBpe,
    /// `llama`: SentencePiece pieces with scores.
    SentencePiece,
}

/// Special tokens: the name used in `tokenizer_config.json` and the GGUF key.
pub(super) const SPECIAL_KEYS: &[(&str, &str)] = &[
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("sep", "tokenizer.ggml.seperator_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("mask", "tokenizer.ggml.mask_token_id"),
    ("eot", "tokenizer.ggml.eot_token_id"),
    ("eom", "tokenizer.ggml.eom_token_id"),
];

const ADD_KEYS: &[(&str, &str)] = &[
    ("bos", "tokenizer.ggml.add_bos_token"),
    ("eos", "tokenizer.ggml.add_eos_token"),
    ("sep", "tokenizer.ggml.add_sep_token"),
];

#[derive(Clone, Debug)]
pub(super) struct Vocab {
    pub(super) kind: Kind,
    /// `tokenizer.ggml.pre`; `default` for SentencePiece.
    pub(super) pre: String,
    pub(super) tokens: Vec<String>,
    pub(super) types: Vec<TokenType>,
    /// One per token for SentencePiece, else empty.
    pub(super) scores: Vec<f32>,
    /// "left right" for byte-level BPE, else empty.
    pub(super) merges: Vec<String>,
    /// (bos, eos, ..; id), in the order they are written.
    pub(super) special: Vec<(&'static str, u32)>,
    /// (bos, eos, sep; whether it is added), in the order they are written.
    pub(super) add: Vec<(&'static str, bool)>,
    pub(super) space_prefix: Option<bool>,
    pub(super) templates: Templates,
}

/// Chat templates: the default one and those with names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Templates {
    pub(super) default: Option<String>,
    pub(super) named: Vec<(String, String)>,
}

impl Vocab {
    pub(super) fn special_id(&self, name: &str) -> Option<u32> {
        self.special.iter().find(|(n, _)| *n == name).map(|(_, id)| *id)
    }

    pub(super) fn adds(&self, name: &str) -> Option<bool> {
        self.add.iter().find(|(n, _)| *n == name).map(|(_, add)| *add)
    }

    /// Reads the `tokenizer.*` keys of a GGUF file.
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let model = metadata.str("tokenizer.ggml.model").context("the model file has no tokenizer")?;
        let kind = match model {
            "gpt2" => Kind::ByteLevelBpe,
            "llama" => Kind::SentencePiece,
            _ => bail!("the model's tokenizer is of a kind that is not supported: `{model}`"),
        };
        let tokens =
            metadata.strings("tokenizer.ggml.tokens").context("the model file has no list of tokens")?.to_vec();
        let types = match metadata.get("tokenizer.ggml.token_type") {
            Some(Value::Array(Array::I32(types))) => types.iter().map(|&id| TokenType::from_id(id)).collect(),
            Some(Value::Array(Array::U32(types))) => types.iter().map(|&id| TokenType::from_id(id as i32)).collect(),
            _ => vec![TokenType::Normal; tokens.len()],
        };
        ensure!(types.len() == tokens.len(), "the model file has {} tokens but {} types", tokens.len(), types.len());
        let scores = match metadata.get("tokenizer.ggml.scores") {
            Some(Value::Array(Array::F32(scores))) => scores.clone(),
            _ => Vec::new(),
        };
        let merges = metadata.strings("tokenizer.ggml.merges").unwrap_or_default().to_vec();
        ensure!(
            kind == Kind::SentencePiece || !merges.is_empty(),
            "the model file has no tokenizer merges: `tokenizer.ggml.merges`"
        );
        let mut vocab = Self {
            kind,
            pre: metadata.str("tokenizer.ggml.pre").unwrap_or("default").to_string(),
            tokens,
            types,
            scores,
            merges,
            special: Vec::new(),
            add: Vec::new(),
            space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix"),
            templates: Templates::from_metadata(metadata),
        };
        for &(name, key) in SPECIAL_KEYS {
            if let Some(id) = metadata.u32(key).filter(|&id| (id as usize) < vocab.tokens.len()) {
                vocab.special.push((name, id));
            }
        }
        for &(name, key) in ADD_KEYS {
            if let Some(add) = metadata.bool(key) {
                vocab.add.push((name, add));
            }
        }
        vocab.apply_defaults();
        Ok(vocab)
    }

    /// What llama.cpp assumes when a key is absent.
    pub(super) fn apply_defaults(&mut self) {
        let size = self.tokens.len() as u32;
        let defaults: &[(&'static str, u32)] = match self.kind {
            Kind::SentencePiece => &[("bos", 1), ("eos", 2), ("unk", 0)],
            Kind::ByteLevelBpe => &[],
        };
        for &(name, id) in defaults {
            if self.special_id(name).is_none() && id < size {
                self.special.push((name, id));
            }
        }
        if self.adds("bos").is_none() {
            let add = match self.kind {
                Kind::SentencePiece => true,
                Kind::ByteLevelBpe => pretokenizer::by_name(&self.pre).is_some_and(|pre| pre.add_bos),
            };
            self.add.push(("bos", add));
        }
        for token in 0..self.tokens.len() {
            if ALWAYS_SHOWN.contains(&self.tokens[token].as_str()) {
                self.types[token] = TokenType::UserDefined;
            } else if ENDS_GENERATION.contains(&self.tokens[token].as_str()) && self.types[token] == TokenType::Normal {
                self.types[token] = TokenType::Control;
            }
        }
    }

    /// The keys that llama.cpp's converter writes, in its order.
    pub(super) fn to_metadata(&self) -> Vec<(String, Value)> {
        let mut keys: Vec<(String, Value)> = Vec::new();
        let mut push = |key: &str, value: Value| keys.push((key.to_string(), value));
        let model = match self.kind {
            Kind::ByteLevelBpe => "gpt2",
            Kind::SentencePiece => "llama",
        };
        push("tokenizer.ggml.model", Value::String(model.to_string()));
        push("tokenizer.ggml.pre", Value::String(self.pre.clone()));
        push("tokenizer.ggml.tokens", Value::Array(Array::String(self.tokens.clone())));
        if self.kind == Kind::SentencePiece {
            push("tokenizer.ggml.scores", Value::Array(Array::F32(self.scores.clone())));
        }
        let types = self.types.iter().map(|&kind| kind as i32).collect();
        push("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        if !self.merges.is_empty() {
            push("tokenizer.ggml.merges", Value::Array(Array::String(self.merges.clone())));
        }
        for &(name, id) in &self.special {
            if let Some((_, key)) = SPECIAL_KEYS.iter().find(|(n, _)| *n == name) {
                push(key, Value::U32(id));
            }
        }
        for &(name, add) in &self.add {
            if let Some((_, key)) = ADD_KEYS.iter().find(|(n, _)| *n == name) {
                push(key, Value::Bool(add));
            }
        }
        for (name, template) in &self.templates.named {
            push(&format!("tokenizer.chat_template.{name}"), Value::String(template.clone()));
        }
        if !self.templates.named.is_empty() {
            let names = self.templates.named.iter().map(|(name, _)| name.clone()).collect();
            push("tokenizer.chat_templates", Value::Array(Array::String(names)));
        }
        if let Some(template) = self.templates.default.as_ref().filter(|t| !t.is_empty()) {
            push("tokenizer.chat_template", Value::String(template.clone()));
        }
        keys
    }
}

impl Templates {
    fn from_metadata(metadata: &Metadata) -> Self {
        let names = metadata.strings("tokenizer.chat_templates").unwrap_or_default();
        let named = names
            .iter()
            .filter_map(|name| {
                Some((name.clone(), metadata.str(&format!("tokenizer.chat_template.{name}"))?.to_string()))
            })
            .collect();
        Self { default: metadata.str("tokenizer.chat_template").map(str::to_string), named }
    }
}

/// llama.cpp treats these as control tokens whatever the file says.
const ENDS_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// llama.cpp parses these even in plain text (gpt-oss).
const ALWAYS_SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];
