//! Chat templates: conversations as the model's own prompt format, rendered the way transformers does.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::Value as Json;

use crate::tokenizer::Tokenizer;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` ..
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_string(), content: content.to_string() }
    }

    fn value(&self) -> Value {
        Value::from_pairs([("role", self.role.as_str()), ("content", self.content.as_str())])
    }
}

/// A model's chat template, or the lack of one.
pub struct ChatTemplate {
    environment: Option<Environment<'static>>,
    bos: String,
    eos: String,
    /// Whether the user has been told that system messages are folded.
    told: AtomicBool,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// The template of a tokenizer. Without one, conversations become plain text.
    ///
    /// Errors: a template that does not parse.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default().to_string();
        Self::from_source(tokenizer.chat_template(), &text(tokenizer.bos()), &text(tokenizer.eos()))
    }

    /// A template from its Jinja source; `bos` and `eos` are the texts of those tokens.
    pub fn from_source(source: Option<&str>, bos: &str, eos: &str) -> Result<Self> {
        let environment = source.map(environment).transpose()?;
        Ok(Self { environment, bos: bos.to_string(), eos: eos.to_string(), told: AtomicBool::new(false) })
    }

    /// Whether the model has a template, so that rendered text holds control tokens.
    pub fn exists(&self) -> bool {
        self.environment.is_some()
    }

    /// A conversation as text. A system message that the template rejects goes before the first user message.
    ///
    /// Errors: the template rejects the conversation itself.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let Some(environment) = &self.environment else { return Ok(contents(messages)) };
        let error = match self.render_with(environment, messages) {
            Ok(text) => return Ok(text),
            Err(error) => error,
        };
        let folded = fold_system(messages).ok_or(error)?;
        let text = self.render_with(environment, &folded)?;
        if !self.told.swap(true, Ordering::Relaxed) {
            log::info!("the chat template takes no system messages; they are put before the first user message");
        }
        Ok(text)
    }

    fn render_with(&self, environment: &Environment, messages: &[Message]) -> Result<String> {
        let template = environment.get_template(NAME).expect("added in `environment`");
        let variables = context! {
            messages => messages.iter().map(Message::value).collect::<Vec<_>>(),
            tools => (),
            documents => (),
            add_generation_prompt => false,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        template.render(variables).map_err(|error| anyhow!("the chat template rejects a conversation: {error}"))
    }
}

/// The conversation of a model without a template.
fn contents(messages: &[Message]) -> String {
    let texts: Vec<&str> = messages.iter().map(|m| m.content.trim()).filter(|text| !text.is_empty()).collect();
    texts.join("\n\n")
}

/// The system messages' text before the first user message's, or `None` if there is none of either.
fn fold_system(messages: &[Message]) -> Option<Vec<Message>> {
    let (system, mut rest): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(|m| m.role == "system");
    let user = rest.iter_mut().find(|m| m.role == "user")?;
    if system.is_empty() {
        return None;
    }
    user.content = format!("{}\n\n{}", contents(&system), user.content);
    Some(rest)
}

/// Jinja as transformers configures it.
fn environment(source: &str) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.context("cannot set up chat templates")?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    // In Python, None is not iterable.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment
        .add_template_owned(NAME, without_generation_marks(source))
        .map_err(|error| anyhow!("the model's chat template does not parse: {error}"))?;
    Ok(environment)
}

/// `{% generation %}` marks what a model is trained on; it prints nothing.
fn without_generation_marks(source: &str) -> String {
    let marks = regex::Regex::new(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}").expect("a valid regex");
    marks.replace_all(source, "{%$1 if true $2%}{%- endif $2%}").into_owned()
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Today, for templates that print the date. It is always the same day: calibration text must not change overnight.
fn strftime_now(format: &str) -> String {
    let parts = [
        ("%Y", "2026"),
        ("%y", "26"),
        ("%m", "01"),
        ("%d", "15"),
        ("%-d", "15"),
        ("%B", "January"),
        ("%b", "Jan"),
        ("%A", "Thursday"),
        ("%a", "Thu"),
        ("%H", "12"),
        ("%M", "00"),
        ("%S", "00"),
        ("%F", "2026-01-15"),
    ];
    parts.iter().fold(format.to_string(), |text, (from, to)| text.replace(from, to))
}

/// `json.dumps` with the defaults of transformers: no escapes but JSON's own, a space after `:` and `,`.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let json = serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(&json, indent, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

fn write_json(json: &Json, indent: Option<usize>, depth: usize, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match json {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { comma } else { "" });
                line(out, depth + 1);
                write_json(item, indent, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        Json::Object(map) if !map.is_empty() => {
            out.push('{');
            for (index, (key, item)) in map.iter().enumerate() {
                out.push_str(if index > 0 { comma } else { "" });
                line(out, depth + 1);
                out.push_str(&Json::String(key.clone()).to_string());
                out.push_str(": ");
                write_json(item, indent, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}
