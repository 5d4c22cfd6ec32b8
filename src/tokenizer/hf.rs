//! The vocabulary of a Hugging Face folder, as llama.cpp's converter would write it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value as Json};

use super::pretokenizer;
use super::special::{self, Special, token_text};
use super::spm::{ModelFile, SPACE};
use super::vocab::{Kind, TokenType, Vocab};
use crate::files::InputFile;

/// A folder's tokenizer files.
pub(super) struct Folder {
    pub(super) vocab: Vocab,
    /// Why llama.cpp has no name for the pre-tokenizer; `None` when it has one.
    pub(super) unknown_pre: Option<anyhow::Error>,
    /// `tokenizer.json`, if there is one.
    pub(super) tokenizer: Option<Json>,
    /// `architectures[0]` of config.json.
    pub(super) architecture: String,
}

impl Folder {
    /// Reads `tokenizer.json` or `tokenizer.model` and the files beside it.
    ///
    /// `rows` is the height of the embedding matrix; the list of tokens is padded to it. `None`: to the vocabulary
    /// itself. Errors name the file at fault.
    pub(super) fn read(dir: &Path, config: &Json, rows: Option<usize>) -> Result<Self> {
        let tokenizer_path = dir.join("tokenizer.json");
        let tokenizer = tokenizer_path.is_file().then(|| read_json(&tokenizer_path)).transpose()?;
        let tokenizer_config = read_json_if_there(&dir.join("tokenizer_config.json"))?;
        let special_map = read_json_if_there(&dir.join("special_tokens_map.json"))?;
        let model_path = dir.join("tokenizer.model");
        let architecture = config["architectures"][0].as_str().unwrap_or_default().to_string();

        let mut unknown_pre = None;
        let mut pre = "default";
        let (kind, entries, merges) = if let Some(model) = sentencepiece(&model_path, tokenizer.is_some())? {
            let entries = sentencepiece_entries(dir, model, tokenizer.as_ref(), &tokenizer_config, rows)?;
            (Kind::SentencePiece, entries, Vec::new())
        } else {
            let Some(tokenizer) = &tokenizer else {
                bail!("the folder has neither tokenizer.json nor tokenizer.model: `{}`", dir.display());
            };
            let at = || cannot_use(&tokenizer_path);
            let kind = kind_of(tokenizer).with_context(at)?;
            let control = control_tokens(tokenizer, &tokenizer_config, &special_map);
            let merges = merges(tokenizer).with_context(at)?;
            match kind {
                Kind::ByteLevelBpe => match pretokenizer::identify(tokenizer, &architecture) {
                    Ok(name) => pre = name,
                    Err(error) => unknown_pre = Some(error.context(at())),
                },
                Kind::SentencePiece => {}
            }
            let entries = json_entries(tokenizer, &tokenizer_config, &control, kind, &merges).with_context(at)?;
            let configured: Vec<_> = added_tokens(&Json::Null, &tokenizer_config).collect();
            let configured = configured.iter().map(|token| (token.id, token.text.as_str()));
            tell_differences(&entries, configured, "tokenizer_config.json", "tokenizer.json", dir);
            (kind, entries, merges)
        };

        let top = entries.keys().max().map_or(0, |&id| id as usize + 1);
        let rows = rows.unwrap_or(top);
        ensure!(
            top <= rows,
            "the tokenizer has {top} tokens but the model's embedding has {rows} rows: `{}`",
            dir.display()
        );
        let known = (kind == Kind::SentencePiece).then_some(rows);
        let mut special = Special::read(tokenizer.as_ref(), &tokenizer_config, config, known);
        adjust_special(&architecture, config, &entries, &mut special);
        let (tokens, types, scores) = table(entries, rows);
        let vocab = Vocab {
            kind,
            pre: pre.to_string(),
            tokens,
            types,
            scores: if kind == Kind::SentencePiece { scores } else { Vec::new() },
            merges: if kind == Kind::ByteLevelBpe { merges.iter().map(merge_text).collect() } else { Vec::new() },
            special: special.ids,
            add: special.add,
            space_prefix: space_prefix(&architecture, kind, &tokenizer_config),
            templates: special::templates(dir, &tokenizer_config)?,
        };
        Ok(Self { vocab, unknown_pre, tokenizer, architecture })
    }

    /// llama.cpp's converter writes this key before all others for the families that inherit from Llama.
    pub(super) fn space_prefix_first(&self) -> bool {
        is_llama(&self.architecture)
    }
}

/// One token: text, type, score.
type Entry = (String, TokenType, f32);

const ADDED_SCORE: f32 = -1000.0;
const PAD_SCORE: f32 = -10000.0;

fn table(entries: HashMap<u32, Entry>, rows: usize) -> (Vec<String>, Vec<TokenType>, Vec<f32>) {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![TokenType::Unused; rows];
    let mut scores = vec![PAD_SCORE; rows];
    for (id, (text, kind, score)) in entries {
        let id = id as usize;
        (tokens[id], types[id], scores[id]) = (text, kind, score);
    }
    (tokens, types, scores)
}

/// Byte-level BPE, or SentencePiece written as BPE with byte fallback.
fn kind_of(tokenizer: &Json) -> Result<Kind> {
    let model = &tokenizer["model"];
    // Old files have no "type".
    let name = model["type"].as_str().unwrap_or(if model["merges"].is_array() { "BPE" } else { "" });
    ensure!(name == "BPE", "its kind is not supported: `{name}`");
    if model["byte_fallback"].as_bool().unwrap_or(false) {
        return Ok(Kind::SentencePiece);
    }
    let byte_level = |part: &Json| part.to_string().contains(r#""ByteLevel""#);
    ensure!(
        byte_level(&tokenizer["pre_tokenizer"]) || byte_level(&tokenizer["decoder"]),
        "it is BPE, but works neither on bytes nor with byte fallback"
    );
    Ok(Kind::ByteLevelBpe)
}

/// (left, right) of every merge, in order of rank.
fn merges(tokenizer: &Json) -> Result<Vec<[String; 2]>> {
    let list = tokenizer["model"]["merges"].as_array().context("it has no list of merges")?;
    list.iter()
        .map(|merge| {
            let pair = match merge {
                Json::String(text) => text.split_once(' '),
                _ => merge[0].as_str().zip(merge[1].as_str()),
            };
            let (left, right) = pair.with_context(|| format!("it has a merge that is not a pair: `{merge}`"))?;
            Ok([left.to_string(), right.to_string()])
        })
        .collect()
}

/// A merge in one string; a space inside a piece becomes U+0120, as in byte-level text.
fn merge_text(pair: &[String; 2]) -> String {
    let [left, right] = pair;
    format!("{} {}", left.replace(' ', "\u{120}"), right.replace(' ', "\u{120}"))
}

/// Texts of the tokens that the configuration names as special.
fn control_tokens(tokenizer: &Json, tokenizer_config: &Json, special_map: &Json) -> HashSet<String> {
    let mut control = HashSet::new();
    for config in [tokenizer_config, special_map] {
        for kind in ["bos", "eos", "unk", "sep", "pad", "cls", "mask"] {
            control.extend(token_text(&config[format!("{kind}_token")]));
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            control.extend(config[key].as_array().into_iter().flatten().filter_map(token_text));
        }
    }
    control.extend(added_tokens(tokenizer, tokenizer_config).filter(|t| t.special).map(|t| t.text));
    control
}

struct Added {
    id: u32,
    text: String,
    special: bool,
}

/// Added tokens of `tokenizer.json`, then those that only `tokenizer_config.json` knows.
fn added_tokens(tokenizer: &Json, tokenizer_config: &Json) -> impl Iterator<Item = Added> {
    let added = |id: Option<u64>, token: &Json| {
        Some(Added {
            id: u32::try_from(id?).ok()?,
            text: token["content"].as_str()?.to_string(),
            special: token["special"].as_bool().unwrap_or(false),
        })
    };
    let listed: Vec<_> = tokenizer["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| added(token["id"].as_u64(), token))
        .collect();
    let decoder = tokenizer_config["added_tokens_decoder"].as_object();
    let more: Vec<_> = decoder
        .into_iter()
        .flatten()
        .filter_map(|(id, token)| added(id.parse().ok(), token))
        .filter(|token| listed.iter().all(|known| known.id != token.id))
        .collect();
    listed.into_iter().chain(more)
}

/// Added tokens that are control tokens although their file does not say so.
fn looks_special(text: &str) -> bool {
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || text.starts_with("<|") && text.ends_with("|>")
        || text.starts_with("<｜") && text.ends_with("｜>")
        || text.starts_with("<unused") && text.ends_with('>')
}

fn json_entries(
    tokenizer: &Json,
    tokenizer_config: &Json,
    control: &HashSet<String>,
    kind: Kind,
    merges: &[[String; 2]],
) -> Result<HashMap<u32, Entry>> {
    let vocab = tokenizer["model"]["vocab"].as_object().context("it has no vocabulary")?;
    let ranks = if kind == Kind::SentencePiece { merge_ranks(merges) } else { HashMap::new() };
    let mut entries = HashMap::with_capacity(vocab.len());
    for (text, id) in vocab {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.with_context(|| format!("it gives a token no valid id: `{text}`"))?;
        let token_type = if kind == Kind::SentencePiece && is_byte(text) { TokenType::Byte } else { TokenType::Normal };
        // Scores only order merges: a merge that comes earlier scores higher. llama.cpp's converter writes -1000
        // everywhere here, with which llama.cpp splits words differently from the model's own tokenizer.
        let score = ranks.get(text.as_str()).map_or(ADDED_SCORE * 1000.0, |&rank| -(rank as f32));
        entries.insert(id, (text.clone(), token_type, score));
    }
    for token in added_tokens(tokenizer, tokenizer_config) {
        let (text, token_type) = if control.contains(&token.text) || looks_special(&token.text) {
            (token.text, TokenType::Control)
        } else {
            (token.text.replace(SPACE, " "), TokenType::UserDefined)
        };
        let is_unknown = kind == Kind::SentencePiece && tokenizer["model"]["unk_token"] == *text;
        let token_type = if is_unknown { TokenType::Unknown } else { token_type };
        entries.insert(token.id, (text, token_type, ADDED_SCORE * 1000.0));
    }
    Ok(entries)
}

/// The rank of the first merge that makes each piece.
fn merge_ranks(merges: &[[String; 2]]) -> HashMap<String, usize> {
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, pair) in merges.iter().enumerate() {
        ranks.entry(pair.concat()).or_insert(rank);
    }
    ranks
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

/// The folder's `tokenizer.model`, unless it is something else (tiktoken's, a pointer) and there is another to go by.
fn sentencepiece(path: &Path, has_json: bool) -> Result<Option<ModelFile>> {
    if !path.is_file() {
        return Ok(None);
    }
    let read = || ModelFile::parse(&InputFile::member(path)?.context("it is gone")?.read_all()?);
    match read() {
        Ok(model) => Ok(Some(model)),
        Err(error) if has_json => {
            log::warn!("tokenizer.json counts, not `{}`: {error}", path.display());
            Ok(None)
        }
        Err(error) => Err(error.context(cannot_use(path))),
    }
}

/// llama.cpp `conversion/base.py`, `_create_vocab_sentencepiece`, and the tokens that only `tokenizer.json` adds.
fn sentencepiece_entries(
    dir: &Path,
    model: ModelFile,
    tokenizer: Option<&Json>,
    tokenizer_config: &Json,
    rows: Option<usize>,
) -> Result<HashMap<u32, Entry>> {
    let mut entries: HashMap<u32, Entry> = HashMap::with_capacity(model.pieces.len());
    for (id, (text, score, kind)) in (0..).zip(model.pieces) {
        let text = if kind == TokenType::UserDefined { text.replace(SPACE, " ") } else { text };
        entries.insert(id, (text, kind, score));
    }
    let pieces = tokenizer.and_then(|tokenizer| tokenizer["model"]["vocab"].as_object()).into_iter().flatten();
    let pieces = pieces.filter_map(|(text, id)| Some((u32::try_from(id.as_u64()?).ok()?, text.as_str())));
    tell_differences(&entries, pieces, "tokenizer.json", "tokenizer.model", dir);

    let in_range = |id: u32| rows.is_none_or(|rows| (id as usize) < rows);
    for (text, id) in read_json_if_there(&dir.join("added_tokens.json"))?.as_object().unwrap_or(&Map::new()) {
        if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| in_range(id)) {
            entries.insert(id, (text.clone(), TokenType::UserDefined, ADDED_SCORE));
        }
    }
    let mut add = |token: Added, replace: bool| {
        let known = entries.get(&token.id).is_some_and(|(text, kind, _)| {
            *text == token.text && !matches!(kind, TokenType::Normal | TokenType::Unused)
        });
        if replace || !known {
            let (text, kind) = if token.special || looks_special(&token.text) {
                (token.text, TokenType::Control)
            } else {
                (token.text.replace(SPACE, " "), TokenType::UserDefined)
            };
            entries.insert(token.id, (text, kind, ADDED_SCORE));
        }
    };
    let (listed, past): (Vec<_>, Vec<_>) =
        added_tokens(tokenizer.unwrap_or(&Json::Null), &Json::Null).partition(|token| in_range(token.id));
    if let Some(token) = past.first() {
        log::warn!(
            "the model's embedding has no row for `{}` and {} more: `{}`",
            token.text,
            past.len() - 1,
            dir.display()
        );
    }
    listed.into_iter().for_each(|token| add(token, false));
    let configured: Vec<_> = added_tokens(&Json::Null, tokenizer_config).filter(|token| in_range(token.id)).collect();
    let texts = added_tokens(tokenizer.unwrap_or(&Json::Null), &Json::Null);
    let texts: HashMap<u32, String> = texts.map(|token| (token.id, token.text)).collect();
    for token in configured {
        add(token, true);
    }
    let added = texts.iter().map(|(&id, text)| (id, text.as_str()));
    tell_differences(&entries, added, "tokenizer.json", "tokenizer_config.json", dir);
    Ok(entries)
}

/// Says which of two files counts where they give an id different texts.
fn tell_differences<'a>(
    entries: &HashMap<u32, Entry>,
    others: impl Iterator<Item = (u32, &'a str)>,
    other: &str,
    counts: &str,
    dir: &Path,
) {
    let differs = |&(id, text): &(u32, &str)| {
        entries.get(&id).is_some_and(|(known, ..)| known != text && *known != text.replace(SPACE, " "))
    };
    let mut different: Vec<_> = others.filter(differs).collect();
    different.sort_unstable();
    if let Some(&(id, text)) = different.first() {
        let more = if different.len() > 1 { format!(" (and {} more)", different.len() - 1) } else { String::new() };
        let known = &entries[&id].0;
        log::warn!(
            "token {id} is `{known}` by {counts}, which counts, and `{text}` by {other}{more}: `{}`",
            dir.display()
        );
    }
}

/// Families whose conversion inherits from llama.cpp's `LlamaModel`.
fn is_llama(architecture: &str) -> bool {
    const FAMILIES: &[&str] = &[
        "Llama",
        "LLaMA",
        "Mistral",
        "Mixtral",
        "Ministral",
        "SmolLM3",
        "Granite",
        "Arcee",
        "Apertus",
        "VLlama3",
        "Llava",
        "Voxtral",
        "Nanbeige",
    ];
    FAMILIES.iter().any(|family| architecture.starts_with(family)) && !architecture.starts_with("Llama4")
}

fn space_prefix(architecture: &str, kind: Kind, tokenizer_config: &Json) -> Option<bool> {
    if is_llama(architecture) {
        return tokenizer_config["add_prefix_space"].as_bool();
    }
    (kind == Kind::SentencePiece && architecture.starts_with("Gemma")).then_some(false)
}

/// What single families set on top of the common rules.
fn adjust_special(architecture: &str, config: &Json, entries: &HashMap<u32, Entry>, special: &mut Special) {
    let id = |text: &str| entries.iter().find(|(_, entry)| entry.0 == text).map(|(&id, _)| u64::from(id));
    if architecture.starts_with("Glm4") {
        for (kind, text) in
            [("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>")]
        {
            special.set_id(kind, id(text));
        }
    }
    // The small Granite and SmolLM models: their BOS is never added.
    if is_llama(architecture) && config["vocab_size"] == 49152 {
        special.set_add("bos", false, true);
    }
}

/// The first half of every complaint about a file.
pub(super) fn cannot_use(path: &Path) -> String {
    format!("cannot use the tokenizer: `{}`", path.display())
}

/// Reads a JSON file.
pub(super) fn read_json(path: &Path) -> Result<Json> {
    let file = InputFile::member(path)?.with_context(|| cannot_use(path))?;
    let bytes = file.read_all().with_context(|| cannot_use(path))?;
    crate::json::parse_bytes(&bytes).context("it is not valid JSON").with_context(|| cannot_use(path))
}

fn read_json_if_there(path: &Path) -> Result<Json> {
    if path.is_file() { read_json(path) } else { Ok(Json::Null) }
}
