//! Corrections by type: what a type's errors really cost, measured on the whole model, over what was predicted.
//!
//! The prediction takes the errors of different rows for independent. Those of coarse codebooks are not: they shrink every
//! row a little, which adds up. One run per type over a few thousand tokens tells.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;

use super::Requantized;
use crate::calibration::Chunks;
use crate::device::Device;
use crate::forward::{Side, Stream, StreamOptions, diverge};
use crate::imatrix::Imatrix;
use crate::plan::{Analysis, TensorAnalysis};
use crate::progress::{Progress, Within};
use crate::quant::GgmlType;
use crate::source::Model;

/// Predicted divergence of a run, in nats: far above rounding noise, and small enough that errors still add up.
const PROBE: f64 = 0.02;
/// A run whose whole prediction is below this is not worth making: such types are nearly lossless.
const NEGLIGIBLE: f64 = 2e-4;
/// No correction is trusted beyond this factor.
const MOST: f64 = 4.0;

/// Multiplies the predictions of every type by measured over predicted divergence, and notes the factors.
pub fn correct(
    device: &Device,
    model: &Model,
    imatrix: &Imatrix,
    chunks: &Chunks,
    memory: StreamOptions,
    analysis: &mut Analysis,
    progress: &dyn Progress,
) -> Result<()> {
    let stream = Stream::new(device, model, &chunks.tokens, chunks.ctx, memory)?;
    let scored = 0..chunks.ctx - 1;
    let quiet = Within(progress);
    let probes = probes(analysis);
    progress.begin("type corrections", probes.len() as u64 + 1);
    let base = Side { stream: &stream, weights: model }.run(scored.clone(), "", &quiet)?;
    progress.advance(1)?;
    for (ty, probe) in probes {
        let types = probe.tensors.into_iter().map(|name| (name, ty)).collect::<HashMap<_, _>>();
        let weights = Requantized { device, model, imatrix, types };
        let run = Side { stream: &stream, weights: &weights }.run(scored.clone(), "", &quiet)?;
        let divergence = diverge(&base, &run, scored.clone(), &quiet)?;
        let measured = divergence.tokens.iter().map(|token| token.kld).sum::<f64>() / divergence.tokens.len() as f64;
        let factor = (measured / probe.predicted).clamp(1.0 / MOST, MOST);
        log::info!("{ty}: predicted {:.6}, measured {measured:.6} nats per token", probe.predicted);
        analysis.corrections.insert(ty, factor);
        progress.advance(1)?;
    }
    progress.end();
    for tensor in &mut analysis.tensors {
        for candidate in &mut tensor.candidates {
            candidate.predicted *= analysis.corrections.get(&candidate.ty).copied().unwrap_or(1.0);
        }
    }
    Ok(())
}

/// The tensors that a type's run quantizes, and what they should cost together.
struct Probe {
    tensors: Vec<String>,
    predicted: f64,
}

/// For every type as many layer matrices, spread over the depth, as make up [`PROBE`] nats.
fn probes(analysis: &Analysis) -> BTreeMap<GgmlType, Probe> {
    let matrices: Vec<&TensorAnalysis> =
        analysis.quantizable().filter(|tensor| tensor.name.starts_with("blk.")).collect();
    let mut probes: BTreeMap<GgmlType, Probe> = BTreeMap::new();
    for tensor in spread(&matrices) {
        for candidate in tensor.candidates.iter().filter(|candidate| candidate.ty != tensor.source_type) {
            let probe = probes.entry(candidate.ty).or_insert(Probe { tensors: Vec::new(), predicted: 0.0 });
            if probe.tensors.is_empty() || probe.predicted + candidate.predicted <= PROBE {
                probe.tensors.push(tensor.name.clone());
                probe.predicted += candidate.predicted;
            }
        }
    }
    probes.retain(|_, probe| probe.predicted >= NEGLIGIBLE);
    probes
}

/// All items, in an order in which every beginning is spread over the whole (steps of the golden ratio).
fn spread<T: Copy>(items: &[T]) -> Vec<T> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    let place = |index: usize| (index as f64 * 0.618_033_988_749_894_9).fract();
    order.sort_by(|a, b| place(*a).total_cmp(&place(*b)));
    order.into_iter().map(|index| items[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_order_is_a_permutation_whose_beginning_covers_the_range() {
        let items: Vec<usize> = (0..100).collect();
        let order = spread(&items);
        let mut sorted = order.clone();
        sorted.sort();
        assert_eq!(sorted, items);
        let start = &order[..10];
        assert!(start.iter().any(|item| *item < 34) && start.iter().any(|item| *item > 66), "{start:?}");
    }
}
