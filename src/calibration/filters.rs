//! Filters of chat templates whose results have to be Python's to the letter.

use minijinja::Error;
use minijinja::value::{Kwargs, Value};
use serde_json::Value as Json;

use super::template::invalid;

/// Widest indentation; more is nobody's style.
const MAX_INDENT: usize = 64;

/// `indent` as Jinja does it: a line break at the end stays.
pub(super) fn indent(text: &str, width: Option<usize>, first: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let width = width.or(options.get("width")?).unwrap_or(4);
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = options.get::<Option<bool>>("blank")?.unwrap_or(false);
    options.assert_all_used()?;
    if width > MAX_INDENT {
        return Err(invalid(&format!("indent: a width of {width}, more than {MAX_INDENT}")));
    }
    let margin = " ".repeat(width);
    let line = |(index, line): (usize, &str)| {
        let indented = if index == 0 { first } else { blank || !line.is_empty() };
        format!("{}{line}", if indented { &margin } else { "" })
    };
    Ok(text.split('\n').enumerate().map(line).collect::<Vec<_>>().join("\n"))
}

/// How JSON is written.
pub(super) struct Style {
    indent: Option<usize>,
    comma: String,
    colon: String,
    sort_keys: bool,
    ascii: bool,
}

impl Default for Style {
    /// No escapes but JSON's own, a space after `:` and `,`.
    fn default() -> Self {
        Self { indent: None, comma: ", ".to_owned(), colon: ": ".to_owned(), sort_keys: false, ascii: false }
    }
}

/// `json.dumps` with the defaults of transformers.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let json = serde_json::to_value(value).map_err(|error| invalid(&error))?;
    let style = Style::read(&options)?;
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(&json, &mut out);
    Ok(Value::from_safe_string(out))
}

impl Style {
    fn read(options: &Kwargs) -> Result<Self, Error> {
        let indent: Option<usize> = options.get("indent")?;
        if let Some(indent) = indent.filter(|&indent| indent > MAX_INDENT) {
            return Err(invalid(&format!("tojson: an indent of {indent}, more than {MAX_INDENT}")));
        }
        let mut style = Self { indent, ..Self::default() };
        if indent.is_some() {
            style.comma = ",".to_owned();
        }
        if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
            let pair: Result<[String; 2], _> = separators.try_into();
            [style.comma, style.colon] = pair.map_err(|_| invalid(&"tojson: separators are two texts"))?;
        }
        style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
        style.ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        Ok(style)
    }

    pub(super) fn write(&self, json: &Json, out: &mut String) {
        self.write_at(json, 0, out);
    }

    fn write_at(&self, json: &Json, depth: usize, out: &mut String) {
        match json {
            Json::Array(items) if !items.is_empty() => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.separate(index, depth + 1, out);
                    self.write_at(item, depth + 1, out);
                }
                self.line(depth, out);
                out.push(']');
            }
            Json::Object(map) if !map.is_empty() => {
                out.push('{');
                let mut pairs: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    pairs.sort_by_key(|(key, _)| *key);
                }
                for (index, (key, item)) in pairs.into_iter().enumerate() {
                    self.separate(index, depth + 1, out);
                    self.write_text(key, out);
                    out.push_str(&self.colon);
                    self.write_at(item, depth + 1, out);
                }
                self.line(depth, out);
                out.push('}');
            }
            Json::String(text) => self.write_text(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn separate(&self, index: usize, depth: usize, out: &mut String) {
        out.push_str(if index > 0 { &self.comma } else { "" });
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent * depth));
        }
    }

    fn write_text(&self, text: &str, out: &mut String) {
        let quoted = Json::String(text.to_owned()).to_string();
        if !self.ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
        }
    }
}
