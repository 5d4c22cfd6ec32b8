//! The shapes in which people keep documents and conversations as JSON.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value as Json, json};

use super::conversation::{Conversation, Message};

/// A document before rendering.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) domain: String,
    /// Where it is from, for messages: "`chats.jsonl`: line 3".
    pub(super) place: String,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Text(String),
    Chat(Box<Conversation>),
}

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) samples: Vec<Sample>,
    /// (what was left out or is odd, where).
    pub(super) notes: Vec<(String, String)>,
}

/// Where a value is and what it is about.
#[derive(Clone, Copy)]
struct At<'a> {
    domain: &'a str,
    place: &'a str,
}

const CHATS: &[&str] = &["messages", "conversations", "conversation", "contents"];
const PROMPTS: &[&str] = &["prompt", "instruction", "question", "query", "problem"];
const RESPONSES: &[&str] = &["response", "completion", "output", "answer", "chosen", "solution"];
const TEXTS: &[&str] = &["text", "content", "document"];
/// Keys around a list of documents.
const LISTS: &[&str] = &["rows", "data", "items", "examples", "documents", "samples", "records", "train", "test"];
/// How deep lists of documents nest.
const MAX_DEPTH: usize = 8;

impl Found {
    /// Adds the documents of one JSON value.
    ///
    /// Errors say what is wrong with it; the caller says where it is.
    pub(super) fn add(&mut self, json: &Json, domain: &str, place: &str) -> Result<()> {
        self.value(json, At { domain, place }, 0)
    }

    fn value(&mut self, json: &Json, at: At, depth: usize) -> Result<()> {
        match json {
            _ if depth > MAX_DEPTH => bail!("its lists nest more than {MAX_DEPTH} deep"),
            Json::String(text) => self.text(text, at),
            Json::Null => self.note("an empty document", at),
            Json::Array(items) if items.is_empty() => self.note("an empty document", at),
            Json::Array(items) if items.iter().any(is_turn) => {
                let messages = self.messages(items, at)?;
                self.chat(Conversation { messages, ..Conversation::default() }, at);
            }
            Json::Array(items) => self.list(items, at, depth)?,
            Json::Object(map) => self.object(map, at, depth)?,
            _ => bail!("it is no document but `{json}`"),
        }
        Ok(())
    }

    fn list(&mut self, items: &[Json], at: At, depth: usize) -> Result<()> {
        for (index, item) in items.iter().enumerate() {
            let number = format!("document {}", index + 1);
            let place = format!("{}, {number}", at.place);
            self.value(item, At { place: &place, ..at }, depth + 1).with_context(|| number)?;
        }
        Ok(())
    }

    /// A conversation in one of its many shapes, a text, or something around them.
    fn object(&mut self, map: &Map<String, Json>, at: At, depth: usize) -> Result<()> {
        let there =
            |names: &[&'static str]| names.iter().copied().find(|&name| map.get(name).is_some_and(is_something));
        let text = |names: &[&'static str]| there(names).and_then(|name| map[name].as_str());
        let at = At { domain: text(&["domain", "category"]).unwrap_or(at.domain), ..at };
        if map.get("role").is_some_and(Json::is_string) && there(CHATS).is_none() {
            let messages = self.messages(&[Json::Object(map.clone())], at)?;
            self.chat(conversation(messages, map)?, at);
        } else if let Some(name) = there(CHATS) {
            let list = unquoted(&map[name]);
            let items = list.as_array().with_context(|| format!("its `{name}` is no list of messages"))?;
            if items.iter().all(Json::is_array) && !items.is_empty() {
                return self.list(items, at, depth);
            }
            let mut messages = self.messages(items, at)?;
            let system = text(&["system"]).filter(|_| messages.iter().all(|m| m.role() != "system"));
            messages.splice(0..0, system.map(|system| Message::new("system", system)));
            self.chat(conversation(messages, map)?, at);
        } else if let Some(name) = there(PROMPTS).or(there(RESPONSES).and(there(&["input"]))) {
            let messages = self.exchange(name, map, at)?;
            self.chat(conversation(messages, map)?, at);
        } else if let Some(name) = there(&["chosen"]) {
            self.value(&unquoted(&map[name]), at, depth + 1)?;
        } else if let Some(name) = there(TEXTS) {
            match &map[name] {
                Json::String(text) => self.text(text, at),
                list if name == "text" && list.as_array().is_some_and(|list| list.iter().all(Json::is_string)) => {
                    self.value(list, at, depth + 1)?;
                }
                Json::Array(items) if name != "text" => self.list(items, at, depth)?,
                _ => bail!("its `{name}` is no text"),
            }
        } else if let Some(row) = map.get("row").filter(|row| row.is_object()) {
            self.value(row, at, depth + 1)?;
        } else if let Some(items) = LISTS.iter().find_map(|&name| map.get(name)?.as_array()) {
            self.list(items, at, depth)?;
        } else if [CHATS, PROMPTS, TEXTS].concat().iter().any(|&name| map.contains_key(name)) {
            self.note("an empty document", at);
        } else {
            let keys = map.keys().take(8).map(|key| format!("`{}`", key.escape_debug())).collect::<Vec<_>>().join(", ");
            bail!("it has none of `messages`, `conversations`, `prompt`, `text` (but {keys})");
        }
        Ok(())
    }

    /// A prompt and what answers it, each a text or a list of messages.
    fn exchange(&mut self, prompt: &str, map: &Map<String, Json>, at: At) -> Result<Vec<Message>> {
        let text = |name: &str| map.get(name).and_then(Json::as_str).filter(|text| !text.is_empty());
        let mut messages = Vec::new();
        messages.extend(text("system").map(|text| Message::new("system", text)));
        for turn in map.get("history").and_then(Json::as_array).into_iter().flatten() {
            if let (Some(user), Some(assistant)) = (turn[0].as_str(), turn[1].as_str()) {
                messages.extend([Message::new("user", user), Message::new("assistant", assistant)]);
            }
        }
        match &unquoted_list(&map[prompt]) {
            Json::String(question) => {
                let input = text("input").filter(|_| prompt != "input");
                let question = input.map_or(question.clone(), |input| format!("{question}\n\n{input}"));
                messages.push(Message::new("user", &question));
            }
            Json::Array(items) => messages.extend(self.messages(items, at)?),
            _ => bail!("its `{prompt}` is neither text nor a list of messages"),
        }
        let name = RESPONSES.iter().copied().find(|&name| map.get(name).is_some_and(is_something));
        match name.map(|name| (name, unquoted_list(&map[name]))) {
            None => {}
            Some((_, Json::String(answer))) => messages.push(Message::new("assistant", &answer)),
            Some((_, Json::Array(items))) if items.iter().any(is_turn) => {
                let answer = self.messages(&items, at)?;
                // the whole conversation once more
                if answer.first().is_some_and(|first| first.role() != "assistant") {
                    messages.clear();
                }
                messages.extend(answer);
            }
            Some((name, _)) => bail!("its `{name}` is neither text nor a list of messages"),
        }
        Ok(messages)
    }

    fn messages(&mut self, turns: &[Json], at: At) -> Result<Vec<Message>> {
        let mut messages = Vec::with_capacity(turns.len());
        for (index, turn) in turns.iter().enumerate() {
            let (message, media) = message(turn).with_context(|| format!("message {}", index + 1))?;
            for kind in media {
                self.note(&format!("a part of a message that is no text (`{}`)", kind.escape_debug()), at);
            }
            messages.push(message);
        }
        Ok(messages)
    }

    fn chat(&mut self, conversation: Conversation, at: At) {
        if conversation.messages.is_empty() {
            return self.note("an empty conversation", at);
        }
        self.push(Content::Chat(Box::new(conversation)), at);
    }

    fn text(&mut self, text: &str, at: At) {
        self.push(Content::Text(text.to_owned()), at);
    }

    fn push(&mut self, content: Content, at: At) {
        self.samples.push(Sample { domain: at.domain.to_owned(), place: at.place.to_owned(), content });
    }

    fn note(&mut self, what: &str, at: At) {
        self.notes.push((what.to_owned(), at.place.to_owned()));
    }
}

fn is_something(json: &Json) -> bool {
    !json.is_null()
}

fn is_turn(json: &Json) -> bool {
    json.get("role").is_some() || json.get("from").is_some()
}

/// A value that is written as JSON within a string, as in tables.
fn unquoted(json: &Json) -> Json {
    let inner = json.as_str().and_then(|text| crate::json::parse(text).ok());
    inner.unwrap_or_else(|| json.clone())
}

/// The same for lists alone: a text that happens to be JSON is a text.
fn unquoted_list(json: &Json) -> Json {
    let inner = unquoted(json);
    if inner.as_array().is_some_and(|items| items.iter().any(is_turn)) { inner } else { json.clone() }
}

/// The messages with what else of their document a template is handed.
fn conversation(messages: Vec<Message>, map: &Map<String, Json>) -> Result<Conversation> {
    let list = |name: &str| -> Result<Option<Vec<Json>>> {
        match map.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) if text.trim().is_empty() => Ok(None),
            Some(value) => match unquoted(value) {
                Json::Array(items) => Ok(Some(items).filter(|items| !items.is_empty())),
                _ => bail!("its `{name}` is no list"),
            },
        }
    };
    let tools = match list("tools")? {
        Some(tools) => Some(tools),
        // the older form of the same
        None => list("functions")?.map(|functions| {
            functions.into_iter().map(|function| json!({"type": "function", "function": function})).collect()
        }),
    };
    let settings = map.get("chat_template_kwargs").and_then(Json::as_object);
    Ok(Conversation {
        messages,
        tools: tools.map(Json::Array),
        documents: list("documents").ok().flatten().map(Json::Array),
        settings: settings.cloned().unwrap_or_default(),
    })
}

/// One turn, and the kinds of its parts that are no text.
fn message(turn: &Json) -> Result<(Message, Vec<String>)> {
    let turn = turn.as_object().context("it is no object")?;
    let (role_key, content_key) = if turn.contains_key("role") { ("role", "content") } else { ("from", "value") };
    let role = turn.get(role_key).and_then(Json::as_str).context("it has no `role`")?;
    let mut fields = Map::new();
    fields.insert("role".to_owned(), role_name(role).into());
    for (key, value) in turn {
        match key.as_str() {
            key if key == role_key => {}
            "value" if role_key == "from" || !turn.contains_key("content") => {
                fields.insert("content".to_owned(), value.clone());
            }
            "parts" if !turn.contains_key(content_key) => {
                fields.insert("content".to_owned(), parts(value));
            }
            // tables give every message the keys of all
            key if value.is_null() && key != "content" => {}
            key => {
                fields.insert(key.to_owned(), value.clone());
            }
        }
    }
    if role == "function_call" || role == "tool_call" {
        call_from_text(&mut fields);
    }
    let mut media = Vec::new();
    if let Some(Json::Array(parts)) = fields.get_mut("content") {
        parts.retain(|part| match medium(part) {
            Some(kind) => {
                media.push(kind);
                false
            }
            None => true,
        });
    }
    Ok((Message(fields), media))
}

/// The names that transformers' templates know.
fn role_name(role: &str) -> &str {
    match role {
        "human" => "user",
        "gpt" | "model" | "bot" | "chatgpt" | "bing" | "bard" | "function_call" | "tool_call" => "assistant",
        "observation" | "tool_response" | "function_response" => "tool",
        other => other,
    }
}

/// Parts without a type, as Gemini's interface has them.
fn parts(value: &Json) -> Json {
    let typed = |part: &Json| match part.get("text") {
        Some(text) => json!({"type": "text", "text": text}),
        None => part.clone(),
    };
    value.as_array().map_or(value.clone(), |parts| parts.iter().map(typed).collect())
}

/// A call that ShareGPT keeps as the text of a turn becomes what templates print.
fn call_from_text(fields: &mut Map<String, Json>) {
    let Some(value) = fields.get("content").map(unquoted) else { return };
    let calls = value.as_array().cloned().unwrap_or_else(|| vec![value]);
    if calls.is_empty() || !calls.iter().all(|call| call["name"].is_string()) {
        return;
    }
    let calls = calls.into_iter().map(|call| json!({"type": "function", "function": call}));
    fields.insert("tool_calls".to_owned(), calls.collect());
    fields.insert("content".to_owned(), "".into());
}

/// The kind of a part that this program cannot give to a model.
fn medium(part: &Json) -> Option<String> {
    let kind = part["type"].as_str()?;
    let media = ["image", "audio", "video", "file"];
    media.iter().any(|medium| kind.contains(medium)).then(|| kind.to_owned())
}
