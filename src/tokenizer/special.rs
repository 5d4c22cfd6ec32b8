//! Special token ids, the add_bos/add_eos/add_sep flags and chat templates of a Hugging Face folder.
//!
//! Follows llama.cpp `gguf-py/gguf/vocab.py` (`SpecialVocab`): the post-processor decides what is added, then
//! `tokenizer_config.json`; ids come from the added tokens, then from `config.json`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value as Json;

use super::vocab::Templates;
use crate::files::InputFile;

/// What the files say about special tokens, in the order llama.cpp's converter writes it.
#[derive(Debug, Default)]
pub(super) struct Special {
    pub(super) ids: Vec<(&'static str, u32)>,
    pub(super) add: Vec<(&'static str, bool)>,
}

/// The texts of the special tokens while they are being worked out.
#[derive(Default)]
struct Names {
    texts: Vec<(&'static str, String)>,
    kinds: Vec<&'static str>,
}

impl Names {
    fn read(tokenizer_config: &Json) -> Self {
        let kinds = vec!["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
        let texts = kinds
            .iter()
            .filter_map(|&kind| Some((kind, token_text(&tokenizer_config[format!("{kind}_token")])?)))
            .collect();
        Self { texts, kinds }
    }

    fn get(&self, kind: &str) -> Option<&str> {
        self.texts.iter().find(|(k, _)| *k == kind).map(|(_, text)| text.as_str())
    }

    fn set(&mut self, kind: &'static str, text: &str) {
        self.texts.retain(|(k, _)| *k != kind);
        self.texts.push((kind, text.to_string()));
    }

    fn is(&self, kinds: &[&str], text: &str) -> bool {
        kinds.iter().any(|kind| self.get(kind) == Some(text))
    }
}

/// A token written as a string or as `{"content": ..}`.
pub(super) fn token_text(entry: &Json) -> Option<String> {
    entry.as_str().or(entry["content"].as_str()).filter(|text| !text.is_empty()).map(str::to_string)
}

impl Special {
    /// `rows`: ids at or above it are dropped; `None` keeps all.
    pub(super) fn read(tokenizer: Option<&Json>, tokenizer_config: &Json, config: &Json, rows: Option<usize>) -> Self {
        let mut special = Self::default();
        let mut names = Names::read(tokenizer_config);
        if let Some(tokenizer) = tokenizer {
            special.read_post_processor(&tokenizer["post_processor"], &mut names);
        }
        let in_range = |id: &u64| rows.is_none_or(|rows| *id < rows as u64);
        for &kind in &names.kinds {
            if let Some(add) = tokenizer_config[format!("add_{kind}_token")].as_bool() {
                special.set_add(kind, add, false);
            }
            let id = names.get(kind).and_then(|text| added_token_id(tokenizer?, text));
            special.set_id(kind, id.filter(in_range));
        }
        for &kind in &names.kinds {
            let key = format!("{kind}_token_id");
            let id = config[&key].as_u64().or(config["text_config"][&key].as_u64());
            if let (Some(id), Some(known)) = (id, special.id(kind).filter(|&known| id != Some(known.into()))) {
                log::info!("{key} is {id} in config.json, but {known} by the tokenizer's files, which count");
            }
            special.set_id(kind, id.filter(in_range));
        }
        special
    }

    fn id(&self, kind: &str) -> Option<u32> {
        self.ids.iter().find(|(k, _)| *k == kind).map(|(_, id)| *id)
    }

    /// Sets an id unless there is one.
    pub(super) fn set_id(&mut self, kind: &'static str, id: Option<u64>) {
        if let Some(id) = id.filter(|_| self.ids.iter().all(|(k, _)| *k != kind)) {
            self.ids.push((kind, id as u32));
        }
    }

    pub(super) fn set_add(&mut self, kind: &'static str, add: bool, replace: bool) {
        match self.add.iter_mut().find(|(k, _)| *k == kind) {
            Some(slot) if replace => slot.1 = add,
            Some(_) => {}
            None => self.add.push((kind, add)),
        }
    }

    fn read_post_processor(&mut self, post_processor: &Json, names: &mut Names) {
        if post_processor.is_null() {
            return;
        }
        // An encoder's [CLS] and [SEP] stand in for BOS and EOS.
        for (kind, other) in [("bos", "cls"), ("eos", "sep")] {
            if let (None, Some(text)) = (names.get(kind), names.get(other).map(str::to_string)) {
                names.set(kind, &text);
            }
        }
        let parts = post_processor["processors"].as_array().map_or(std::slice::from_ref(post_processor), Vec::as_slice);
        for part in parts {
            match part["type"].as_str().unwrap_or_default() {
                "ByteLevel" => {
                    self.set_add("bos", false, false);
                    self.set_add("eos", false, false);
                }
                "RobertaProcessing" => {
                    for kind in ["bos", "eos", "sep"] {
                        self.set_add(kind, true, true);
                    }
                    for kind in ["cls", "sep"] {
                        if let (None, Some(text)) = (names.get(kind), part[kind][0].as_str()) {
                            names.set(kind, text);
                        }
                    }
                }
                "TemplateProcessing" => self.read_template(part, names),
                _ => {}
            }
        }
    }

    fn read_template(&mut self, template: &Json, names: &mut Names) {
        let special = |entry: Option<&Json>| entry.and_then(|e| e["SpecialToken"]["id"].as_str()).map(str::to_string);
        let single = template["single"].as_array().map_or(&[][..], Vec::as_slice);
        let (first, last) = match single {
            [first, .., last] => (special(Some(first)), special(Some(last))),
            _ => (None, None),
        };
        if let Some(first) = &first {
            for kind in ["bos", "cls"] {
                if names.get(kind).is_none() && !names.is(&["bos", "cls"], first) {
                    names.set(kind, first);
                }
            }
            self.set_add("bos", names.is(&["bos", "cls"], first), true);
        }
        if let Some(last) = &last {
            if let Some(eos) = names.get("eos").filter(|eos| eos != last).map(str::to_string) {
                // The text ends in another token than generation does: keep the latter as end of turn (or message).
                let kind = if names.kinds.contains(&"eot") { "eom" } else { "eot" };
                names.kinds.push(kind);
                names.set(kind, &eos);
            }
            names.set("eos", last);
            self.set_add("eos", true, true);
        }
        let pair = template["pair"].as_array().map_or(&[][..], Vec::as_slice);
        self.read_pair(pair, first.as_deref(), last.as_deref(), names);
    }

    /// The separator between two sequences, in `[first] A [sep] [eos] B [last]`.
    fn read_pair(&mut self, pair: &[Json], first: Option<&str>, last: Option<&str>, names: &mut Names) {
        let is = |entry: &Json, text: Option<&str>| text.is_some() && entry["SpecialToken"]["id"].as_str() == text;
        let pair = match pair {
            [head, rest @ ..] if is(head, first) => rest,
            _ => pair,
        };
        let pair = match pair {
            [rest @ .., tail] if is(tail, last) => rest,
            _ => pair,
        };
        let [a, middle @ .., b] = pair else { return };
        if a["Sequence"]["id"] != "A" || b["Sequence"]["id"] != "B" || middle.is_empty() {
            return;
        }
        let separates =
            |entry: &Json| entry["SpecialToken"]["id"].as_str().is_some_and(|text| names.is(&["sep", "eos"], text));
        let add = separates(&middle[0]) && last.is_none() || middle.len() == 2 && separates(&middle[1]);
        self.set_add("sep", add, true);
        if let (true, None, Some(eos)) = (add, names.get("sep"), names.get("eos").map(str::to_string)) {
            names.set("sep", &eos);
        }
    }
}

fn added_token_id(tokenizer: &Json, text: &str) -> Option<u64> {
    tokenizer["added_tokens"].as_array()?.iter().find(|token| token["content"] == text)?["id"].as_u64()
}

/// The chat templates of a folder, as transformers chooses: `chat_template.jinja` and `additional_chat_templates`, else
/// `tokenizer_config.json`, else `chat_template.json`.
pub(super) fn templates(dir: &Path, tokenizer_config: &Json) -> Result<Templates> {
    let inline = templates_from_json(&tokenizer_config["chat_template"]);
    let jinja = dir.join("chat_template.jinja");
    let default = jinja.is_file().then(|| read_template(dir, &jinja)).transpose()?;
    let named = additional_templates(dir)?;
    if default.is_some() || !named.is_empty() {
        let files = Templates { default: default.or(inline.default.clone()), named };
        if inline != Templates::default() && inline != files {
            log::warn!(
                "two places hold the chat template: its own files count, not tokenizer_config.json: `{}`",
                dir.display()
            );
        }
        return Ok(files);
    }
    let json = dir.join("chat_template.json");
    if inline == Templates::default() && json.is_file() {
        return Ok(templates_from_json(&super::hf::read_json(&json)?["chat_template"]));
    }
    Ok(inline)
}

/// A template in its own file, in the model folder `root` or in a folder of it.
fn read_template(root: &Path, path: &Path) -> Result<String> {
    let read = || InputFile::member_of(root, path)?.context("it is gone")?.text();
    read().with_context(|| super::hf::cannot_use(path))
}

fn templates_from_json(entry: &Json) -> Templates {
    let mut templates = Templates { default: entry.as_str().map(str::to_string), named: Vec::new() };
    for choice in entry.as_array().map_or(&[][..], Vec::as_slice) {
        let (Some(name), Some(template)) = (choice["name"].as_str(), choice["template"].as_str()) else { continue };
        match key_name(name).as_str() {
            "" => {}
            "default" => templates.default = Some(template.to_string()),
            name => templates.named.push((name.to_string(), template.to_string())),
        }
    }
    templates
}

fn additional_templates(dir: &Path) -> Result<Vec<(String, String)>> {
    let Ok(entries) = fs::read_dir(dir.join("additional_chat_templates")) else { return Ok(Vec::new()) };
    let mut named = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "jinja") && path.is_file() {
            let name = key_name(&path.file_stem().unwrap_or_default().to_string_lossy());
            named.push((name, read_template(dir, &path)?));
        }
    }
    named.sort();
    Ok(named)
}

/// Template names become parts of metadata keys: anything but letters and digits turns into `_`.
fn key_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
