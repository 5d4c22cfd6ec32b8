//! From the options about text to the tokens that a model reads.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::common::{CalibrationArgs, MixArgs};
use crate::calibration::{self, ChatTemplate, Chunks, Document};
use crate::source::Model;
use crate::tokenizer::Tokenizer;

/// What the built-in calibration set is called in files.
const BUILT_IN: &str = "dq-gpu built-in";

/// A model's way from text to tokens.
pub struct Reader {
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Reader {
    /// Fails if the model's vocabulary or chat template cannot be used.
    pub fn new(model: &Model) -> Result<Reader> {
        let at = || format!("cannot read text with the model: `{}`", model.path.display());
        let tokenizer = Tokenizer::from_gguf(&model.metadata).with_context(at)?;
        let template = ChatTemplate::new(&tokenizer).with_context(at)?;
        Ok(Reader { tokenizer, template })
    }

    /// Calibration text: the user's, or the built-in set. Also what to call it in files.
    pub fn calibration(&self, paths: &[PathBuf], ctx: u32, chunks: Option<u32>) -> Result<(Chunks, String)> {
        if paths.is_empty() {
            return Ok((self.cut(&calibration::built_in(&self.template)?, ctx, chunks)?, BUILT_IN.to_owned()));
        }
        let name = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Ok((self.cut(&calibration::load(paths, &self.template)?, ctx, chunks)?, name))
    }

    /// Calibration text for a file: the user's and the built-in set in turn, or one of them. Also what to call it in files.
    pub fn mixed_calibration(&self, text: &CalibrationArgs, mix: &MixArgs) -> Result<(Chunks, String)> {
        if text.calibration.is_empty() || mix.calibration_only {
            return self.calibration(&text.calibration, text.ctx, text.chunks);
        }
        let (own, name) = self.calibration(&text.calibration, text.ctx, text.chunks)?;
        let (built_in, _) = self.calibration(&[], text.ctx, text.chunks)?;
        let chunks = own.alternate(built_in, text.chunks.map(|n| n as usize))?;
        Ok((chunks, format!("{name}, {BUILT_IN}")))
    }

    /// The built-in text that no calibration sees.
    pub fn held_out(&self, ctx: u32, chunks: Option<u32>) -> Result<Chunks> {
        self.cut(&calibration::held_out(&self.template)?, ctx, chunks)
    }

    /// Text to measure on. One plain text file is cut exactly as llama-perplexity cuts it, so that figures compare.
    pub fn measured(&self, paths: &[PathBuf], ctx: u32, chunks: Option<u32>) -> Result<Chunks> {
        match paths {
            [] => self.held_out(ctx, chunks),
            [file] if file.is_file() && is_plain_text(file) => {
                let shown = || format!("cannot use the text: `{}`", file.display());
                let text = std::fs::read_to_string(file).with_context(shown)?;
                let domain = file.file_stem().unwrap_or_default().to_string_lossy();
                let limit = chunks.map(|n| n as usize);
                Chunks::from_text_stream(&text, &domain, &self.tokenizer, ctx as usize, limit).with_context(shown)
            }
            _ => self.cut(&calibration::load(paths, &self.template)?, ctx, chunks),
        }
    }

    fn cut(&self, documents: &[Document], ctx: u32, chunks: Option<u32>) -> Result<Chunks> {
        Chunks::cut(documents, &self.tokenizer, ctx as usize, chunks.map(|n| n as usize))
    }
}

fn is_plain_text(file: &std::path::Path) -> bool {
    file.extension().is_none_or(|extension| extension != "jsonl" && extension != "json")
}
