//! Chat templates: conversations as the model's own prompt format, rendered the way transformers does.
//!
//! A template is a program that somebody else wrote. Here it is held by fuel, by depth and by the length of what it
//! prints; [`super::Sandbox`] renders in a process of its own, which also holds its memory, its stack and its time.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::conversation::{Conversation, Message};
use super::filters::{Style, indent, tojson};
use crate::tokenizer::Tokenizer;

/// Turns conversations into text, here or elsewhere.
pub trait Renderer {
    /// Whether the model has a template, so that rendered text holds control tokens.
    fn exists(&self) -> bool;
    /// Errors: the work was interrupted, or there is no way to render at all.
    fn rendering(&self, conversation: &Conversation) -> Result<Rendering>;
}

/// What became of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rendering {
    /// Its text, and what had to be changed for the template to take it.
    Text(String, Option<Change>),
    /// The template does not take this conversation.
    Rejected(String),
    /// The template is of no use for any conversation.
    Unusable(String),
}

/// What a template does not take as transformers would hand it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    System,
    Content,
    Arguments,
}

impl Change {
    pub(super) fn explanation(self) -> &'static str {
        match self {
            Self::System => "takes no system messages; they are put before the first user message",
            Self::Content => "takes only text as the content of messages; what else there is, is written as text",
            Self::Arguments => {
                "takes the arguments of tool calls in the other form, text or object; they are converted"
            }
        }
    }
}

/// A model's templates and the tokens that they print, as they go to another process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    pub default: Option<String>,
    /// The template for conversations with tools, where it is one of its own.
    pub tool_use: Option<String>,
    /// Names of further templates.
    pub names: Vec<String>,
    /// (`bos_token` ..; text).
    pub tokens: Vec<(String, String)>,
}

impl Setup {
    /// The templates of a tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).map(str::to_owned);
        let tokens = ["bos", "eos", "unk", "sep", "pad", "mask"].into_iter().filter_map(|kind| {
            let always = matches!(kind, "bos" | "eos").then(String::new);
            Some((format!("{kind}_token"), text(tokenizer.special(kind)).or(always)?))
        });
        let named = |template: Option<&str>| template.filter(|source| !source.is_empty()).map(str::to_owned);
        Self {
            default: named(tokenizer.chat_template()),
            tool_use: named(tokenizer.named_chat_template("tool_use")),
            names: tokenizer.chat_template_names().map(str::to_owned).collect(),
            tokens: tokens.collect(),
        }
    }

    pub fn exists(&self) -> bool {
        self.default.is_some() || !self.names.is_empty()
    }
}

/// A model's chat template, or the lack of one.
pub struct ChatTemplate {
    default: Option<Engine>,
    /// The template for conversations with tools, or why there is none.
    tool_use: Option<Result<Engine, String>>,
    setup: Setup,
}

impl ChatTemplate {
    /// The template of a tokenizer. Without one, conversations become plain text.
    ///
    /// Errors: a template that does not parse.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        Self::from_setup(Setup::of(tokenizer))
    }

    /// A template from its Jinja source; `bos` and `eos` are the texts of those tokens.
    pub fn from_source(source: Option<&str>, bos: &str, eos: &str) -> Result<Self> {
        let tokens = [("bos_token", bos), ("eos_token", eos)].map(|(name, text)| (name.to_owned(), text.to_owned()));
        Self::from_setup(Setup { default: source.map(str::to_owned), tokens: tokens.into(), ..Setup::default() })
    }

    /// Errors: the default template does not parse.
    pub fn from_setup(setup: Setup) -> Result<Self> {
        let engine = |source: &String| Engine::new(source, &setup.tokens);
        Ok(Self {
            default: setup.default.as_ref().map(engine).transpose()?,
            tool_use: setup.tool_use.as_ref().map(|source| engine(source).map_err(|error| error.to_string())),
            setup,
        })
    }

    /// A conversation as text. A system message that the template rejects goes before the first user message.
    ///
    /// Errors: the template rejects the conversation itself.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let conversation = Conversation::from(messages);
        match self.rendering(&conversation)? {
            Rendering::Text(text, _) => Ok(text),
            Rendering::Rejected(reason) => Err(anyhow!("the chat template rejects a conversation: {reason}")),
            Rendering::Unusable(reason) => Err(anyhow!("the chat template cannot be used: {reason}")),
        }
    }

    /// As transformers chooses.
    fn engine(&self, conversation: &Conversation) -> Result<&Engine, String> {
        match (&self.tool_use, &self.default) {
            (Some(tool_use), _) if conversation.tools.is_some() => tool_use.as_ref().map_err(Clone::clone),
            (_, Some(default)) => Ok(default),
            _ => Err(format!("there are only templates for purposes ({}) and no default", self.setup.names.join(", "))),
        }
    }
}

impl Renderer for ChatTemplate {
    fn exists(&self) -> bool {
        self.setup.exists()
    }

    fn rendering(&self, conversation: &Conversation) -> Result<Rendering> {
        if !self.exists() {
            return Ok(Rendering::Text(conversation.plain(), None));
        }
        Ok(match self.engine(conversation) {
            Ok(engine) => engine.render(conversation),
            Err(reason) => Rendering::Rejected(reason),
        })
    }
}

/// How a template takes the content of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Text,
    /// A list of parts; text is not printed.
    Parts,
    Both,
}

/// One template, ready to render.
struct Engine {
    environment: Environment<'static>,
    tokens: Vec<(String, String)>,
    /// Or the limit that the template met when it was asked.
    content: OnceLock<Result<Content, String>>,
}

const NAME: &str = "chat_template";
/// Longest text that a conversation may become.
const MAX_OUTPUT: usize = 64 << 20;
/// Instructions that a conversation may take; producing 64 bytes of text counts as one more.
const FUEL: u64 = 20_000_000;
/// How much of a template's own complaint is passed on.
const MAX_REASON: usize = 300;

impl Engine {
    fn new(source: &str, tokens: &[(String, String)]) -> Result<Self> {
        Ok(Self { environment: environment(source)?, tokens: tokens.to_vec(), content: OnceLock::new() })
    }

    /// The first form of the conversation that the template takes, beginning with the one that transformers hands over.
    fn render(&self, conversation: &Conversation) -> Rendering {
        let given = match self.content.get_or_init(|| self.find_content()) {
            Err(reason) => return Rendering::Unusable(reason.clone()),
            Ok(Content::Text) => {
                conversation.map(|message| if message.has_parts() { message.with_text() } else { message })
            }
            Ok(Content::Parts) => conversation.map(Message::with_parts),
            Ok(Content::Both) => conversation.clone(),
        };
        let mut first = None;
        let mut tried: Vec<Conversation> = Vec::new();
        for (change, form) in forms(&given) {
            if tried.contains(&form) {
                continue;
            }
            match self.text(&form) {
                Ok(text) => return Rendering::Text(text, change),
                Err(error) if limit(&error).is_some() => return Rendering::Unusable(reason(&error)),
                Err(error) => first = first.or(Some(reason(&error))),
            }
            tried.push(form);
        }
        Rendering::Rejected(first.unwrap_or_default())
    }

    fn text(&self, conversation: &Conversation) -> Result<String, Error> {
        let template = self.environment.get_template(NAME)?;
        let mut variables: Map<String, Json> =
            self.tokens.iter().map(|(name, text)| (name.clone(), text.as_str().into())).collect();
        variables.extend(conversation.settings.clone());
        for (name, value) in [
            ("messages", json!(conversation.messages)),
            ("tools", json!(conversation.tools)),
            ("documents", json!(conversation.documents)),
            ("add_generation_prompt", false.into()),
        ] {
            variables.insert(name.to_owned(), value);
        }
        let mut out = Limited(Vec::new());
        template.render_captured_to(Value::from(Serde(&variables)), &mut out)?;
        String::from_utf8(out.0).map_err(|error| invalid(&error))
    }

    /// Whether content may be a list of parts, and whether it has to be: asked of the template itself.
    fn find_content(&self) -> Result<Content, String> {
        let (question, answer) = ("calibration question", "calibration answer");
        let chat = Conversation::from(&[Message::new("user", question), Message::new("assistant", answer)][..]);
        let prints = |conversation: &Conversation| {
            let text = match self.text(conversation) {
                Ok(text) => text,
                Err(error) => return limit(&error).map_or(Ok(false), Err),
            };
            // a list that is printed as such has the names of its keys
            let has_keys = text.contains("'text'") || text.contains("\"text\"");
            Ok(text.contains(question) && text.contains(answer) && !has_keys)
        };
        Ok(match (prints(&chat)?, prints(&chat.map(Message::with_parts))?) {
            (true, true) => Content::Both,
            (false, true) => Content::Parts,
            _ => Content::Text,
        })
    }
}

/// The conversation as it is, and with what templates are known to reject changed: less and less like it.
fn forms(given: &Conversation) -> impl Iterator<Item = (Option<Change>, Conversation)> {
    let contents = [(None, given.clone()), (Some(Change::Content), given.map(Message::with_text))];
    contents.into_iter().flat_map(|(change, form)| {
        let objects = form.map(|message| with_arguments(message, parsed));
        let texts = form.map(|message| with_arguments(message, written));
        let arguments = Some(Change::Arguments);
        [(change, form), (change.or(arguments), objects), (change.or(arguments), texts)].into_iter().flat_map(
            |(change, form)| {
                let folded = form.fold_system().map(|folded| (change.or(Some(Change::System)), folded));
                [(change, form)].into_iter().chain(folded)
            },
        )
    })
}

fn with_arguments(mut message: Message, convert: fn(&Json) -> Option<Json>) -> Message {
    for arguments in message.arguments() {
        if let Some(converted) = convert(arguments) {
            *arguments = converted;
        }
    }
    message
}

fn parsed(arguments: &Json) -> Option<Json> {
    crate::json::parse(arguments.as_str()?).ok().filter(Json::is_object)
}

fn written(arguments: &Json) -> Option<Json> {
    arguments.is_object().then(|| {
        let mut text = String::new();
        Style::default().write(arguments, &mut text);
        text.into()
    })
}

/// The limit that an error tells of, if it does: the next conversation would fare no better.
fn limit(error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::OutOfFuel => Some("it does not come to an end".to_owned()),
        ErrorKind::WriteFailure => Some(format!("a conversation becomes more than {} MiB of text", MAX_OUTPUT >> 20)),
        // what an included template or a block met
        _ => limit(std::error::Error::source(error)?.downcast_ref()?),
    }
}

fn reason(error: &Error) -> String {
    limit(error).unwrap_or_else(|| error.to_string()).chars().take(MAX_REASON).collect()
}

/// A text of limited length.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Jinja as transformers configures it.
fn environment(source: &str) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| anyhow!("cannot set up chat templates: {error}"))?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment.add_filter("indent", indent);
    // In Python, None is not iterable.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment
        .add_template_owned(NAME, without_generation_marks(source))
        .map_err(|error| anyhow!("the chat template does not parse: {}", reason(&error)))?;
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

pub(super) fn invalid(error: &dyn Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, error.to_string())
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
