//! A conversation as its file holds it: messages with whatever keys they have, tools, documents.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

/// One turn of a conversation: `role`, `content`, and every other key that a template may print (`tool_calls`,
/// `reasoning_content`, `name`, `tool_call_id` ..).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message(pub(super) Map<String, Json>);

impl Message {
    pub fn new(role: &str, content: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), role.into());
        fields.insert("content".to_owned(), content.into());
        Self(fields)
    }

    /// `system`, `user`, `assistant`, `tool` ..
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Json::as_str).unwrap_or_default()
    }

    /// What is said, as text: the texts of content parts one below the other, anything else as JSON.
    pub fn text(&self) -> String {
        match self.0.get("content") {
            None | Some(Json::Null) => String::new(),
            Some(Json::String(text)) => text.clone(),
            Some(Json::Array(parts)) => parts.iter().map(part_text).collect::<Vec<_>>().join("\n"),
            Some(other) => other.to_string(),
        }
    }

    /// What was thought before it was said.
    pub(super) fn reasoning(&self) -> Option<&str> {
        let keys = ["reasoning_content", "reasoning", "thinking"];
        let texts = keys.iter().filter_map(|&key| self.0.get(key)?.as_str());
        texts.map(str::trim).find(|text| !text.is_empty())
    }

    pub(super) fn tool_calls(&self) -> &[Json] {
        self.0.get("tool_calls").and_then(Json::as_array).map_or(&[], Vec::as_slice)
    }

    /// The message with its content as text.
    pub(super) fn with_text(mut self) -> Self {
        let text = self.text();
        self.set_content(text.into());
        self
    }

    pub(super) fn has_parts(&self) -> bool {
        self.0.get("content").is_some_and(Json::is_array)
    }

    /// The message with its text as a list of one part.
    pub(super) fn with_parts(mut self) -> Self {
        if let Some(Json::String(text)) = self.0.get("content") {
            let parts = json!([{"type": "text", "text": text}]);
            self.set_content(parts);
        }
        self
    }

    pub(super) fn set_content(&mut self, content: Json) {
        self.0.insert("content".to_owned(), content);
    }

    /// The arguments of each tool call, wherever its format keeps them.
    pub(super) fn arguments(&mut self) -> impl Iterator<Item = &mut Json> {
        let calls = self.0.get_mut("tool_calls").and_then(Json::as_array_mut);
        calls.into_iter().flatten().filter_map(|call| {
            let function = if call["function"].is_object() { &mut call["function"] } else { call };
            function.get_mut("arguments")
        })
    }

    /// For models without a template: reasoning, words and calls, one below the other.
    fn plain(&self) -> String {
        let calls = self.tool_calls().iter().map(|call| call.get("function").unwrap_or(call).to_string());
        let said = self.reasoning().map(str::to_owned).into_iter().chain([self.text().trim().to_owned()]).chain(calls);
        said.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
    }
}

fn part_text(part: &Json) -> String {
    let text = part.as_str().or(part["text"].as_str()).or(part["thinking"].as_str());
    text.map_or_else(|| part.to_string(), str::to_owned)
}

/// The name of the function that a tool, or a call of one, has.
pub(super) fn function_name(tool: &Json) -> Option<&str> {
    tool["function"]["name"].as_str().or(tool["name"].as_str())
}

/// What transformers hands to a chat template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    pub messages: Vec<Message>,
    /// Schemas of the functions that may be called.
    pub tools: Option<Json>,
    /// What retrieval found.
    pub documents: Option<Json>,
    /// Variables of the template's own (`enable_thinking` ..).
    pub settings: Map<String, Json>,
}

impl From<&[Message]> for Conversation {
    fn from(messages: &[Message]) -> Self {
        Self { messages: messages.to_vec(), ..Self::default() }
    }
}

impl Conversation {
    /// The conversation of a model without a template.
    pub(super) fn plain(&self) -> String {
        let tools = self.tools.iter().flat_map(|tools| match tools {
            Json::Array(tools) => tools.iter().map(Json::to_string).collect(),
            other => vec![other.to_string()],
        });
        let tools = tools.collect::<Vec<_>>().join("\n");
        let texts = std::iter::once(tools).chain(self.messages.iter().map(Message::plain));
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    /// The system messages' text before the first user message's, or `None` if there is none of either.
    pub(super) fn fold_system(&self) -> Option<Self> {
        let (system, mut rest): (Vec<_>, Vec<_>) = self.messages.iter().cloned().partition(|m| m.role() == "system");
        let user = rest.iter_mut().find(|m| m.role() == "user")?;
        if system.is_empty() {
            return None;
        }
        let system = system.iter().map(|m| m.text().trim().to_owned()).filter(|text| !text.is_empty());
        let system = system.collect::<Vec<_>>().join("\n\n");
        match user.0.get_mut("content") {
            Some(Json::Array(parts)) => parts.insert(0, json!({"type": "text", "text": system})),
            _ => {
                let text = format!("{system}\n\n{}", user.text());
                user.set_content(text.into());
            }
        }
        Some(Self { messages: rest, ..self.clone() })
    }

    /// Every message changed in the same way.
    pub(super) fn map(&self, change: impl Fn(Message) -> Message) -> Self {
        Self { messages: self.messages.iter().cloned().map(change).collect(), ..self.clone() }
    }

    /// What of the conversation a rendered text does not hold.
    pub(super) fn missing_from(&self, text: &str) -> Option<&'static str> {
        let lacks = |tool: &Json| function_name(tool).is_some_and(|name| !text.contains(name));
        if self.messages.iter().flat_map(Message::tool_calls).any(lacks) {
            return Some("tool calls");
        }
        if self.tools.as_ref().and_then(Json::as_array).into_iter().flatten().any(lacks) {
            return Some("tools");
        }
        // templates leave out the reasoning of earlier turns on purpose
        let reasoning = self.messages.iter().rev().find_map(Message::reasoning)?;
        (!text.contains(reasoning)).then_some("reasoning")
    }
}
