//! JSON as people's files hold it: with a byte order mark, and with what Python writes although JSON has no such thing.

use std::borrow::Cow;

use serde_json::Value;

/// Parses one value.
///
/// A byte order mark is skipped, NaN and infinities are null, halves of surrogate pairs are U+FFFD.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    parse_with(text, NULL)
}

/// [`parse`] for settings: NaN and infinities are the string `not a finite number`, so that whoever wants a number there says so
/// instead of taking it for missing.
pub fn parse_settings(text: &str) -> serde_json::Result<Value> {
    parse_with(text, "\"not a finite number\"")
}

fn parse_with(text: &str, not_finite: &str) -> serde_json::Result<Value> {
    let text = without_mark(text);
    serde_json::from_str(text).or_else(|error| match repaired(text, not_finite) {
        Cow::Owned(text) => serde_json::from_str(&text),
        Cow::Borrowed(_) => Err(error),
    })
}

const NULL: &str = "null";

/// [`parse`] of a file's bytes.
pub fn parse_bytes(bytes: &[u8]) -> serde_json::Result<Value> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        // for the error, which has the place
        Err(_) => serde_json::from_slice(bytes),
    }
}

/// Values one after the other, with or without line breaks between them.
pub fn parse_stream(text: &str) -> serde_json::Result<Vec<Value>> {
    let text = without_mark(text);
    let read = |text: &str| serde_json::Deserializer::from_str(text).into_iter().collect::<serde_json::Result<_>>();
    read(text).or_else(|error| match repaired(text, NULL) {
        Cow::Owned(text) => read(&text),
        Cow::Borrowed(_) => Err(error),
    })
}

/// The text without a byte order mark.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The text with what Python writes as JSON would have it, and `not_finite` for numbers that are not.
fn repaired<'a>(text: &'a str, not_finite: &str) -> Cow<'a, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    let mut inside = false;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let replaced: Option<(usize, &str)> = match rest[0] {
            b'"' => {
                inside = !inside;
                None
            }
            b'\\' if inside => match half_surrogate(rest) {
                Some(true) => Some((6, "\\ufffd")),
                Some(false) => {
                    at += 12;
                    continue;
                }
                None => {
                    at += 2;
                    continue;
                }
            },
            _ if inside => None,
            _ => ["NaN", "-Infinity", "Infinity"]
                .into_iter()
                .find(|word| rest.starts_with(word.as_bytes()))
                .map(|word| (word.len(), not_finite)),
        };
        match replaced {
            Some((length, by)) => {
                out.push_str(&text[copied..at]);
                out.push_str(by);
                at += length;
                copied = at;
            }
            None => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Whether an escape is half of a surrogate pair without the other; false for a whole pair, `None` for other escapes.
fn half_surrogate(escape: &[u8]) -> Option<bool> {
    let unit = |at: usize| {
        let digits = escape.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    match unit(0)? {
        0xd800..=0xdbff => Some(!matches!(unit(6), Some(0xdc00..=0xdfff))),
        0xdc00..=0xdfff => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_writes_is_read() {
        let read = |text: &str| parse(text).unwrap();
        assert_eq!(read("\u{feff}{\"a\": 1}"), json!({"a": 1}));
        let odd = r#"{"a": NaN, "b": [Infinity, -Infinity, 1], "NaN": "Infinity \" NaN"}"#;
        assert_eq!(read(odd), json!({"a": null, "b": [null, null, 1], "NaN": "Infinity \" NaN"}));
        let halves = r#"["\ud83d x", "\udc00", "\ud83d\ude00", "\\ud83d", "\ud83d\n"]"#;
        assert_eq!(read(halves), json!(["\u{fffd} x", "\u{fffd}", "😀", "\\ud83d", "\u{fffd}\n"]));
        assert_eq!(parse_bytes(b"\xef\xbb\xbf[NaN]").unwrap(), json!([null]));
        assert_eq!(parse_settings("{\"a\": -Infinity}").unwrap(), json!({"a": "not a finite number"}));
    }

    #[test]
    fn what_is_no_json_stays_an_error() {
        for text in ["", "{\"a\": NaNs}", "[1,]", "{'a': 1}", "\"\\ud83d", "nan", "[\"\\u12\"]", "\"\\"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_bytes(b"\"\xff\"").is_err());
    }

    #[test]
    fn values_follow_each_other() {
        assert_eq!(
            parse_stream("\u{feff}{\"a\":\n NaN}{}\n[1] \"x\"").unwrap(),
            [json!({"a": null}), json!({}), json!([1]), json!("x")]
        );
        assert!(parse_stream("{} {").is_err());
        assert_eq!(parse_stream(" ").unwrap(), [] as [Value; 0]);
    }
}
