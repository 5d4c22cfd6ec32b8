//! Documents, chat templates and token chunks.
//!
//! [`built_in`] is the default calibration set and [`held_out`] a set with none of its text, for measuring; [`load`]
//! reads the user's files. All give rendered [`Document`]s, from which [`Chunks`] are cut.

mod chunks;
mod reader;
mod template;

use std::path::PathBuf;

use anyhow::{Result, ensure};

pub use chunks::Chunks;
use reader::{Content, Sample};
pub use template::{ChatTemplate, Message};

const BUILT_IN: &str = include_str!("data/calibration.jsonl");
const HELD_OUT: &str = include_str!("data/heldout.jsonl");

/// A text as the model will read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub domain: String,
    pub text: String,
    /// Rendered through a chat template: control tokens in the text are parsed.
    pub chat: bool,
}

/// The built-in calibration set, rendered.
///
/// Errors: the chat template rejects every conversation.
pub fn built_in(template: &ChatTemplate) -> Result<Vec<Document>> {
    render(&reader::parse_lines(BUILT_IN, "built-in")?, template)
}

/// The built-in held-out set, rendered. It shares no paragraph with [`built_in`].
pub fn held_out(template: &ChatTemplate) -> Result<Vec<Document>> {
    render(&reader::parse_lines(HELD_OUT, "held-out")?, template)
}

/// The documents of files and folders, in the order given: `.txt` and `.md` (plain text), `.jsonl` and `.json`
/// (`messages`, `conversations`, `prompt` + `response`, `text`; optional `domain` or `category`). The domain of a
/// document is its file's stem where it names none.
///
/// Errors: no path, a file that cannot be read or understood, no text at all.
pub fn load(paths: &[PathBuf], template: &ChatTemplate) -> Result<Vec<Document>> {
    ensure!(!paths.is_empty(), "no calibration files were given");
    let mut samples = Vec::new();
    for path in paths {
        samples.extend(reader::read(path)?);
    }
    let documents = render(&samples, template)?;
    let names = || paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ");
    ensure!(!documents.is_empty(), "there is no calibration text in {}", names());
    Ok(documents)
}

/// Conversations that the template rejects are left out with a warning; empty texts silently.
fn render(samples: &[Sample], template: &ChatTemplate) -> Result<Vec<Document>> {
    let mut documents = Vec::with_capacity(samples.len());
    let mut rejected = Vec::new();
    for sample in samples {
        let (text, chat) = match &sample.content {
            Content::Text(text) => (text.clone(), false),
            Content::Chat(messages) => match template.render(messages) {
                Ok(text) => (text, template.exists()),
                Err(error) => {
                    rejected.push(error);
                    continue;
                }
            },
        };
        if !text.trim().is_empty() {
            documents.push(Document { domain: sample.domain.clone(), text, chat });
        }
    }
    if let Some(first) = rejected.pop() {
        ensure!(!documents.is_empty(), "no calibration conversation can be rendered: {first}");
        log::warn!("{} conversations are left out: {first}", rejected.len() + 1);
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn samples(set: &str) -> Vec<Sample> {
        reader::parse_lines(set, "?").unwrap()
    }

    fn texts(sample: &Sample) -> Vec<&str> {
        match &sample.content {
            Content::Text(text) => vec![text],
            Content::Chat(messages) => messages.iter().map(|m| m.content.as_str()).collect(),
        }
    }

    /// Hashes of paragraphs, without white space and case; short ones ("Thanks!") prove nothing.
    fn paragraphs(set: &str) -> HashSet<blake3::Hash> {
        let mut hashes = HashSet::new();
        for sample in samples(set) {
            for paragraph in texts(&sample).iter().flat_map(|text| text.split("\n\n")) {
                let bare: String = paragraph.split_whitespace().collect::<String>().to_lowercase();
                if bare.chars().count() >= 24 {
                    hashes.insert(blake3::hash(bare.as_bytes()));
                }
            }
        }
        hashes
    }

    #[test]
    fn the_two_sets_share_no_paragraph() {
        let (calibration, held_out) = (paragraphs(BUILT_IN), paragraphs(HELD_OUT));
        assert!(calibration.len() > 500 && held_out.len() > 100);
        assert_eq!(calibration.intersection(&held_out).count(), 0);
    }

    #[test]
    fn no_document_is_repeated() {
        let mut seen = HashSet::new();
        for sample in samples(BUILT_IN).iter().chain(&samples(HELD_OUT)) {
            assert!(seen.insert(texts(sample).concat()), "repeated: {:?}", texts(sample)[0]);
        }
    }

    #[test]
    fn both_sets_are_large_and_cover_every_domain() {
        assert!(BUILT_IN.len() >= 300_000, "{}", BUILT_IN.len());
        assert!(HELD_OUT.len() >= 60_000, "{}", HELD_OUT.len());
        for set in [BUILT_IN, HELD_OUT] {
            let domains: HashSet<String> = samples(set).into_iter().map(|s| s.domain).collect();
            for domain in ["chat", "prose", "code", "data", "math", "multilingual"] {
                assert!(domains.contains(domain), "{domain} is missing");
            }
        }
    }
}
