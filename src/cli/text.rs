//! From the options about text to the tokens that a model reads.

use std::path::PathBuf;

use anyhow::{Context, Result};
use regex::Regex;

use super::common::{CalibrationArgs, MixArgs};
use super::render;
use crate::calibration::{self, Chunks, Document, Sandbox, Setup};
use crate::progress::Progress;
use crate::source::Model;
use crate::tokenizer::Tokenizer;

/// What the built-in calibration set is called in files.
const BUILT_IN: &str = "dq-gpu built-in";

/// A model's way from text to tokens.
pub struct Reader<'a> {
    tokenizer: Tokenizer,
    template: Sandbox<'a>,
    trained: usize,
}

impl<'a> Reader<'a> {
    /// Fails if the model's vocabulary cannot be used.
    pub fn new(model: &Model, progress: &'a dyn Progress) -> Result<Reader<'a>> {
        let at = || format!("cannot read text with the model: `{}`", model.path.display());
        let tokenizer = Tokenizer::from_gguf(&model.metadata).with_context(at)?;
        let template = Sandbox::new(Setup::of(&tokenizer), render::command, move || progress.advance(0));
        Ok(Reader { tokenizer, template, trained: model.hparams.n_ctx_train })
    }

    /// Calibration text: the user's, or the built-in set. Also what to call it in files.
    pub fn calibration(&self, paths: &[PathBuf], ctx: u32, chunks: Option<u32>) -> Result<(Chunks, String)> {
        self.check_context(ctx);
        if paths.is_empty() {
            return Ok((self.cut(&calibration::built_in(&self.template)?, ctx, chunks)?, BUILT_IN.to_owned()));
        }
        let name = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Ok((self.cut(&self.load(paths)?, ctx, chunks)?, name))
    }

    /// Calibration text for a file: the user's and the built-in set in turn, or one of them. Also what to call it in files.
    pub fn mixed_calibration(&self, text: &CalibrationArgs, mix: &MixArgs) -> Result<(Chunks, String)> {
        if text.calibration.is_empty() || mix.calibration_only {
            return self.calibration(&text.calibration, text.ctx, text.chunks);
        }
        let (own, name) = self.calibration(&text.calibration, text.ctx, text.chunks)?;
        let built_in = self.cut(&calibration::built_in(&self.template)?, text.ctx, text.chunks)?;
        let chunks = own.alternate(built_in, text.chunks.map(|n| n as usize))?;
        Ok((chunks, format!("{name}, {BUILT_IN}")))
    }

    /// The built-in text that no calibration sees.
    pub fn held_out(&self, ctx: u32, chunks: Option<u32>) -> Result<Chunks> {
        self.cut(&calibration::held_out(&self.template)?, ctx, chunks)
    }

    /// Text to measure on. One plain text file is cut exactly as llama-perplexity cuts it, so that figures compare.
    pub fn measured(&self, paths: &[PathBuf], ctx: u32, chunks: Option<u32>) -> Result<Chunks> {
        self.check_context(ctx);
        let [file] = paths else {
            return match paths {
                [] => self.held_out(ctx, chunks),
                _ => self.cut(&self.load(paths)?, ctx, chunks),
            };
        };
        let shown = || format!("cannot use the text: `{}`", file.display());
        let Some(text) = calibration::plain_text(file).with_context(shown)? else {
            return self.cut(&self.load(paths)?, ctx, chunks);
        };
        let domain = file.file_stem().unwrap_or_default().to_string_lossy();
        let limit = chunks.map(|n| n as usize);
        Chunks::from_text_stream(&text, &domain, &self.tokenizer, ctx as usize, limit).with_context(shown)
    }

    fn load(&self, paths: &[PathBuf]) -> Result<Vec<Document>> {
        let documents = calibration::load(paths, &self.template)?;
        self.tell_control_tokens(&documents);
        Ok(documents)
    }

    /// Conversations that are kept as rendered text reach the model letter by letter, which nobody wants.
    fn tell_control_tokens(&self, documents: &[Document]) {
        let tokens = self.tokenizer.control_tokens().map(regex::escape).collect::<Vec<_>>().join("|");
        let Some(tokens) = Regex::new(&tokens).ok().filter(|_| !tokens.is_empty()) else { return };
        let found = documents.iter().filter(|document| !document.chat).find_map(|document| tokens.find(&document.text));
        if let Some(token) = found {
            log::warn!(
                "the text holds `{}`, which is read as ordinary letters; in `messages` it would be a token",
                token.as_str()
            );
        }
    }

    /// Positions past the trained ones are of no use to the model, and what it does there says little.
    fn check_context(&self, ctx: u32) {
        if ctx as usize > self.trained {
            log::warn!(
                "chunks of {ctx} tokens are longer than the context of {} that the model was trained for",
                self.trained
            );
        }
    }

    fn cut(&self, documents: &[Document], ctx: u32, chunks: Option<u32>) -> Result<Chunks> {
        Chunks::cut(documents, &self.tokenizer, ctx as usize, chunks.map(|n| n as usize))
    }
}
