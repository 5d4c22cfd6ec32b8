//! Listening and sensing: the two passes over calibration text.

use anyhow::Result;

use crate::calibration::Chunks;
use crate::device::Device;
use crate::forward::{Stream, StreamOptions};
use crate::imatrix::Imatrix;
use crate::imatrix::collect::Collector;
use crate::progress::Progress;
use crate::sensitivity::{Sensitivities, SweepOptions, reverse_sweep_factors};
use crate::source::Model;

/// Runs the calibration chunks through the model and keeps the activation statistics of every linear layer.
pub fn listen(
    device: &Device,
    model: &Model,
    chunks: &Chunks,
    dataset: &str,
    memory: StreamOptions,
    progress: &dyn Progress,
) -> Result<Imatrix> {
    let stream = Stream::new(device, model, &chunks.tokens, chunks.ctx, memory)?;
    let mut collector = Collector::new(device);
    progress.begin("importance matrix", stream.work());
    stream.final_states(model, 0..chunks.ctx, &mut collector, progress)?;
    progress.end();
    collector.finish(dataset, chunks.len(), chunks.ctx)
}

/// Learns from one reverse sweep over `sweep` what an error costs in nats; `all` gives the token frequencies.
#[expect(clippy::too_many_arguments, reason = "one step of the job: all that it reads")]
pub fn sense(
    device: &Device,
    model: &Model,
    sweep: &Chunks,
    all: &Chunks,
    imatrix: &Imatrix,
    options: SweepOptions,
    memory: StreamOptions,
    progress: &dyn Progress,
) -> Result<Sensitivities> {
    let stream = Stream::new(device, model, &sweep.tokens, sweep.ctx, memory)?;
    reverse_sweep_factors(&stream, imatrix, &all.token_counts(model.hparams.n_vocab), options, progress)
}
