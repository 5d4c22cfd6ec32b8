//! Samples become documents: conversations through the template, or as plain text where it is of no use.

use std::collections::{BTreeMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::Result;

use super::Document;
use super::conversation::Conversation;
use super::shapes::{Content, Sample};
use super::template::{Change, Renderer, Rendering};

/// Conversations that the template rejects are left out with a warning; if it rejects all, they are plain text.
pub(super) fn documents(samples: Vec<Sample>, template: &dyn Renderer) -> Result<Vec<Document>> {
    let chats = through(&samples, template)?;
    let mut documents = Vec::with_capacity(samples.len());
    let mut empty = Places::default();
    for (index, sample) in samples.into_iter().enumerate() {
        let (text, chat) = match (sample.content, &chats) {
            (Content::Text(text), _) => (text, false),
            (Content::Chat(conversation), None) => (conversation.plain(), false),
            (Content::Chat(_), Some(chats)) => match chats.get(&index) {
                Some(text) => (text.clone(), true),
                None => continue,
            },
        };
        if text.trim().is_empty() {
            empty.add(&sample.place);
        } else {
            documents.push(Document { domain: sample.domain, text, chat });
        }
    }
    if let Some(place) = empty.told() {
        log::warn!("{place}: it has no text and is left out");
    }
    Ok(documents)
}

/// The texts of conversations by their place among the samples; `None` if all of them are to be plain text.
fn through(samples: &[Sample], template: &dyn Renderer) -> Result<Option<BTreeMap<usize, String>>> {
    if !template.exists() {
        return Ok(None);
    }
    let mut texts = BTreeMap::new();
    let mut rejected = Places::default();
    let mut reason = None;
    let mut missing: BTreeMap<&str, Places> = BTreeMap::new();
    for (index, sample) in samples.iter().enumerate() {
        let Content::Chat(conversation) = &sample.content else { continue };
        match render(conversation, template)? {
            Rendering::Text(text, change) => {
                tell_change(change);
                if let Some(what) = conversation.missing_from(&text) {
                    missing.entry(what).or_default().add(&sample.place);
                }
                texts.insert(index, text);
            }
            Rendering::Rejected(why) => {
                rejected.add(&sample.place);
                reason.get_or_insert(why);
            }
            Rendering::Unusable(why) => {
                warn_once(format!(
                    "the model's chat template is of no use: {why}; conversations are read as plain text"
                ));
                return Ok(None);
            }
        }
    }
    if let (Some(why), true) = (&reason, texts.is_empty()) {
        warn_once(format!("the model's chat template rejects every conversation ({why}); they are read as plain text"));
        return Ok(None);
    }
    if let (Some(why), Some(place)) = (reason, rejected.told()) {
        log::warn!("{place}: the model's chat template rejects the conversation, which is left out: {why}");
    }
    for (what, places) in missing {
        if let Some(place) = places.told() {
            log::warn!("{place}: the model's chat template leaves out the {what} of the conversation");
        }
    }
    Ok(Some(texts))
}

/// A template that prints nothing of what is said has rejected it.
fn render(conversation: &Conversation, template: &dyn Renderer) -> Result<Rendering> {
    let rendering = template.rendering(conversation)?;
    let is_empty = matches!(&rendering, Rendering::Text(text, _) if text.trim().is_empty());
    if is_empty && !conversation.plain().trim().is_empty() {
        return Ok(Rendering::Rejected("it prints nothing".to_owned()));
    }
    Ok(rendering)
}

fn tell_change(change: Option<Change>) {
    static TOLD: LazyLock<Mutex<HashSet<&str>>> = LazyLock::new(Mutex::default);
    if let Some(explanation) = change.map(Change::explanation)
        && TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(explanation)
    {
        log::info!("the chat template {explanation}");
    }
}

/// The calibration set and the held-out set meet the same template.
fn warn_once(warning: String) {
    static TOLD: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.clone()) {
        log::warn!("{warning}");
    }
}

/// Where something happened, and how often.
#[derive(Default)]
struct Places {
    first: Option<String>,
    more: usize,
}

impl Places {
    fn add(&mut self, place: &str) {
        match self.first {
            None => self.first = Some(place.to_owned()),
            Some(_) => self.more += 1,
        }
    }

    fn told(&self) -> Option<String> {
        let more = if self.more > 0 { format!(" and {} more", self.more) } else { String::new() };
        self.first.as_ref().map(|first| format!("{first}{more}"))
    }
}
