//! Documents, chat templates and token chunks.
//!
//! [`built_in`] is the default calibration set and [`held_out`] a set with none of its text, for measuring; [`load`]
//! reads the user's files. All give rendered [`Document`]s, from which [`Chunks`] are cut.

mod chunks;
mod conversation;
mod files;
mod filters;
mod reader;
mod render;
mod sandbox;
mod shapes;
mod template;

use std::path::PathBuf;

use anyhow::{Result, ensure};

pub use chunks::Chunks;
pub use conversation::{Conversation, Message};
pub use reader::plain_text;
pub use sandbox::{Sandbox, serve};
pub use template::{ChatTemplate, Renderer, Rendering, Setup};

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
/// Errors: those of the renderer.
pub fn built_in(template: &dyn Renderer) -> Result<Vec<Document>> {
    render::documents(reader::lines(BUILT_IN, "built-in", "built-in text")?.samples, template)
}

/// The built-in held-out set, rendered. It shares no paragraph with [`built_in`].
pub fn held_out(template: &dyn Renderer) -> Result<Vec<Document>> {
    render::documents(reader::lines(HELD_OUT, "held-out", "held-out text")?.samples, template)
}

/// The documents of files and folders, in the order given: plain text; tables and JSON in many shapes (`messages`,
/// `conversations`, `prompt` + `response`, `text` ..; optional `domain` or `category`). The domain of a document is
/// its file's stem where it names none.
///
/// Errors: no path, a file that cannot be read or understood, no text at all.
pub fn load(paths: &[PathBuf], template: &dyn Renderer) -> Result<Vec<Document>> {
    ensure!(!paths.is_empty(), "no calibration files were given");
    let (mut samples, mut empty) = (Vec::new(), Vec::new());
    for path in paths {
        let found = reader::read(path)?;
        if found.is_empty() {
            empty.push(path);
        }
        samples.extend(found);
    }
    let documents = render::documents(samples, template)?;
    let names = || paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ");
    ensure!(!documents.is_empty(), "there is no calibration text in {}", names());
    for path in empty {
        log::warn!("there is no calibration text in `{}`", path.display());
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::shapes::{Content, Sample};
    use super::*;

    fn samples(set: &str) -> Vec<Sample> {
        reader::lines(set, "?", "?").unwrap().samples
    }

    fn texts(sample: &Sample) -> Vec<String> {
        match &sample.content {
            Content::Text(text) => vec![text.clone()],
            Content::Chat(conversation) => conversation.messages.iter().map(Message::text).collect(),
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
