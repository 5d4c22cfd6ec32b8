//! The guard of the whole model: rounding stays only where the measured KL of the file falls.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::encoded::Encoded;
use super::learn::Knowledge;
use super::quantize::{Draft, Job};
use super::reference::{Reference, mean};
use super::refine::Tuning;
use crate::forward::Stream;
use crate::progress::Progress;
use crate::rounding::Method;
use crate::source::Tensor;

/// Tokens of calibration text, unseen by rounding, on which it is judged.
pub(super) const GUARD_TOKENS: usize = 4 << 10;

/// What rounding with all of H in view is worth, in nats per token.
#[derive(Clone, Debug, Serialize)]
pub struct Guard {
    /// Mean KL of the file as rounded.
    pub rounded: f64,
    /// The same with every block encoded for itself.
    pub plain: f64,
    pub tokens: usize,
}

impl Guard {
    pub fn keeps_rounding(&self) -> bool {
        self.rounded < self.plain
    }
}

impl Job<'_> {
    /// Takes the plain encoding of the same plan instead of `draft` if it has the lower KL. None where nothing was rounded with
    /// H in view, or no text is left to measure on.
    pub(super) fn guard(
        &self,
        draft: &mut Draft,
        knowledge: &Knowledge,
        output: &Path,
        progress: &dyn Progress,
    ) -> Result<Option<Guard>> {
        let ctx = self.calibration.ctx;
        let chunks = self.calibration.after(self.rounding_chunks(), GUARD_TOKENS / ctx);
        if self.rounding == Method::PLAIN || knowledge.imatrix.is_none() {
            return Ok(None);
        }
        if chunks.is_empty() {
            log::info!("no calibration text is left to compare rounding with plain encoding on");
            return Ok(None);
        }
        let planned = |tensor: &Tensor| Some((tensor.name.clone(), draft.plan.ty(&tensor.name)?));
        let plain = Encoded {
            device: self.device,
            model: self.model,
            imatrix: knowledge.imatrix.as_ref(),
            types: &self.model.tensors.iter().filter_map(planned).collect(),
        };
        let stream = Stream::new(self.device, self.model, &chunks.tokens, ctx, self.memory)?;
        let tuning = Tuning { reference: Reference::new(&stream, &chunks, progress)? };
        let guard = Guard {
            rounded: mean(&tuning.measure(draft.writer.readable()?, None, progress)?),
            plain: mean(&tuning.reference.compare(&plain, progress)?),
            tokens: chunks.tokens.len(),
        };
        if !guard.keeps_rounding() {
            log::warn!(
                "rounding does not lower the KL on text that it has not seen, so every block is encoded for itself"
            );
            *draft = self.write(draft.plan.clone(), Method::PLAIN, knowledge, output, progress)?;
        }
        Ok(Some(guard))
    }
}
