//! The header of a folder's README.md: the small part of YAML that model cards use.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::files::InputFile;

/// Keys of a model card, each with one value or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelCard {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    One(String),
    Many(Vec<String>),
}

impl Entry {
    /// The values, one or many.
    pub(super) fn values(&self) -> &[String] {
        match self {
            Entry::One(value) => std::slice::from_ref(value),
            Entry::Many(values) => values,
        }
    }
}

impl ModelCard {
    /// The card of a folder; empty if it has none. Fails only on what is no file of the folder.
    pub(super) fn read(folder: &Path) -> Result<ModelCard> {
        let file = InputFile::member(&folder.join("README.md"))?;
        Ok(file.and_then(|file| file.text().ok()).map(|text| ModelCard::parse(&text)).unwrap_or_default())
    }

    /// Reads what stands between the first two lines of three dashes. Values that are not plain (mappings, texts over
    /// several lines) are skipped.
    pub(super) fn parse(text: &str) -> ModelCard {
        let mut lines = text.lines();
        if lines.next() != Some("---") {
            return ModelCard::default();
        }
        let mut entries = BTreeMap::new();
        let mut current: Option<(String, Vec<String>)> = None;
        for line in lines.take_while(|line| *line != "---") {
            if let Some((key, value)) = top_level(line) {
                finish(current.take(), &mut entries);
                if value.is_empty() {
                    current = Some((key, Vec::new()));
                } else if let Some(entry) = inline(value) {
                    entries.insert(key, entry);
                }
            } else if let Some((_, items)) = &mut current
                && let Some(item) = line.trim_start().strip_prefix("- ")
            {
                items.extend(scalar(item).filter(|_| !is_mapping(item)));
            }
        }
        finish(current, &mut entries);
        ModelCard { entries }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The single value under the first of these keys that has one.
    pub(super) fn first(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| match self.get(key)? {
            Entry::One(value) => Some(value.as_str()),
            Entry::Many(_) => None,
        })
    }

    /// The values under all of these keys together; `None` if none is there.
    pub(super) fn all(&self, keys: &[&str]) -> Option<Vec<String>> {
        let mut entries = keys.iter().filter_map(|key| self.get(key)).peekable();
        entries.peek()?;
        Some(entries.flat_map(Entry::values).cloned().collect())
    }
}

fn finish(list: Option<(String, Vec<String>)>, entries: &mut BTreeMap<String, Entry>) {
    if let Some((key, items)) = list.filter(|(_, items)| !items.is_empty()) {
        entries.insert(key, Entry::Many(items));
    }
}

/// Key and value of a line that is not indented.
fn top_level(line: &str) -> Option<(String, &str)> {
    if line.starts_with([' ', '\t', '-', '#']) {
        return None;
    }
    let (key, value) = line.split_once(':')?;
    let value = if value.trim_start().starts_with('#') { "" } else { value.trim() };
    Some((unquoted(key.trim()).to_owned(), value))
}

/// A value on the line of its key.
fn inline(value: &str) -> Option<Entry> {
    if let Some(list) = value.strip_prefix('[') {
        let (list, _) = list.split_once(']')?;
        let items = list.split(',').filter_map(|item| scalar(item.trim())).collect();
        return Some(Entry::Many(items));
    }
    // mappings, and texts on the lines that follow
    if value.starts_with(['{', '|', '>', '&', '*', '!']) {
        return None;
    }
    scalar(value).map(Entry::One)
}

/// A plain or quoted value without its comment; `None` for nothing and null.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(quote @ ('"' | '\'')) = text.chars().next() {
        let inner = &text[1..];
        return inner.find(quote).map(|end| inner[..end].to_owned());
    }
    let text = text.split_once(" #").map_or(text, |(value, _)| value.trim_end());
    let is_null = matches!(text, "" | "~" | "null" | "Null" | "NULL");
    (!is_null).then(|| text.to_owned())
}

fn is_mapping(item: &str) -> bool {
    !item.trim_start().starts_with(['"', '\'']) && (item.contains(": ") || item.trim_end().ends_with(':'))
}

fn unquoted(text: &str) -> &str {
    text.trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_and_lists_are_read() {
        let card = ModelCard::parse(
            "---\nlicense: apache-2.0 # free\nlanguage:\n- en\n- 'no'\ntags: [chat, \"a b\"]\nbase_model:\n  - Qwen/Qwen3-8B\n\
             model-index:\n- name: x\n  results: []\nextra_gated_prompt: |\n  text: more\nempty:\npipeline_tag: text-generation\n---\nname: body\n",
        );
        assert_eq!(card.first(&["name", "license"]), Some("apache-2.0"));
        assert_eq!(card.all(&["languages", "language"]), Some(vec!["en".into(), "no".into()]));
        assert_eq!(
            card.all(&["tags", "pipeline_tag"]),
            Some(vec!["chat".into(), "a b".into(), "text-generation".into()])
        );
        assert_eq!(card.get("base_model"), Some(&Entry::Many(vec!["Qwen/Qwen3-8B".into()])));
        for absent in ["model-index", "extra_gated_prompt", "text", "empty", "name", "datasets"] {
            assert_eq!(card.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn a_readme_without_a_header_is_an_empty_card() {
        assert_eq!(ModelCard::parse("# A model\nlicense: mit\n"), ModelCard::default());
        assert_eq!(ModelCard::parse(""), ModelCard::default());
    }
}
