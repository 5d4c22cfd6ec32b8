//! Calibration files: plain text, JSON lines, JSON arrays, folders of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;

use super::template::Message;

/// A document before rendering.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) domain: String,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Text(String),
    Chat(Vec<Message>),
}

/// Reads one path: a file, or every known file of a folder, sorted by name.
pub(super) fn read(path: &Path) -> Result<Vec<Sample>> {
    let at = || format!("cannot read calibration text: `{}`", path.display());
    if !path.is_dir() {
        return read_file(path).with_context(at);
    }
    let mut samples = Vec::new();
    for file in files(path).with_context(at)? {
        samples
            .extend(read_file(&file).with_context(|| format!("cannot read calibration text: `{}`", file.display()))?);
    }
    Ok(samples)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if ["txt", "md", "jsonl", "json"].contains(&extension(&path).as_str()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Anything that is not JSON by its name is plain text.
fn read_file(path: &Path) -> Result<Vec<Sample>> {
    let bytes = fs::read(path)?;
    let text = String::from_utf8(bytes).context("it is not UTF-8 text")?;
    let domain = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match extension(path).as_str() {
        "jsonl" => parse_lines(&text, &domain),
        "json" => parse_array(&text, &domain),
        _ => Ok(vec![Sample { domain, content: Content::Text(text) }]),
    }
}

/// JSON lines; empty lines are skipped.
pub(super) fn parse_lines(text: &str, domain: &str) -> Result<Vec<Sample>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let at = || format!("line {}", index + 1);
            parse(&serde_json::from_str(line).with_context(at)?, domain).with_context(at)
        })
        .collect()
}

fn parse_array(text: &str, domain: &str) -> Result<Vec<Sample>> {
    let json: Json = serde_json::from_str(text)?;
    let Some(items) = json.as_array() else { bail!("it is JSON, but not a list of documents") };
    items
        .iter()
        .enumerate()
        .map(|(index, item)| parse(item, domain).with_context(|| format!("document {}", index + 1)))
        .collect()
}

/// One document: `messages`, `conversations` (ShareGPT), `prompt` + `response` and its spellings, `text`, or a string.
fn parse(json: &Json, domain: &str) -> Result<Sample> {
    let field = |names: &[&str]| names.iter().find_map(|name| json[name].as_str());
    let domain = field(&["domain", "category"]).unwrap_or(domain).to_string();
    let content = if let Some(list) = json["messages"].as_array().or(json.as_array()) {
        Content::Chat(list.iter().map(|turn| message(turn, "role", "content")).collect::<Result<_>>()?)
    } else if let Some(list) = json["conversations"].as_array().or(json["conversation"].as_array()) {
        let keys = if list.first().is_some_and(|turn| turn["from"].is_string()) {
            ["from", "value"]
        } else {
            ["role", "content"]
        };
        Content::Chat(list.iter().map(|turn| message(turn, keys[0], keys[1])).collect::<Result<_>>()?)
    } else if let Some(prompt) = field(&["prompt", "instruction", "question"]) {
        let input = field(&["input"]).filter(|input| !input.is_empty());
        let prompt = input.map_or(prompt.to_string(), |input| format!("{prompt}\n\n{input}"));
        let response = field(&["response", "completion", "output", "answer"]);
        let response = response.context("it has a prompt but no response")?;
        let system = field(&["system"]).map(|text| Message::new("system", text));
        let turns = [Message::new("user", &prompt), Message::new("assistant", response)];
        Content::Chat(system.into_iter().chain(turns).collect())
    } else if let Some(text) = field(&["text", "content"]).or(json.as_str()) {
        Content::Text(text.to_string())
    } else {
        bail!("it has none of `messages`, `conversations`, `prompt`, `text`");
    };
    if let Content::Chat(messages) = &content {
        ensure!(!messages.is_empty(), "its conversation is empty");
    }
    Ok(Sample { domain, content })
}

fn message(turn: &Json, role: &str, content: &str) -> Result<Message> {
    let role = turn[role].as_str().with_context(|| format!("a message has no `{role}`"))?;
    let role = match role {
        "human" => "user",
        "gpt" | "model" | "bot" | "chatgpt" => "assistant",
        other => other,
    };
    let text = match &turn[content] {
        Json::String(text) => text.clone(),
        // Parts, of which only the texts are of use here.
        Json::Array(parts) => parts.iter().filter_map(|p| p["text"].as_str()).collect::<Vec<_>>().join("\n"),
        Json::Null => String::new(),
        _ => bail!("the content of a message is not text"),
    };
    Ok(Message { role: role.to_string(), content: text })
}
