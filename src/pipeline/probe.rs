//! Probing: group after group in a coarse type, everything else as it is, and the KL of every token.

use anyhow::{Result, bail};

use super::encoded::{Encoded, Types};
use super::reference::{Parts, Reference, mean};
use crate::calibration::Chunks;
use crate::device::Device;
use crate::forward::{Stream, StreamOptions};
use crate::imatrix::Imatrix;
use crate::kld::TokenRecord;
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::sensitivity::probe::{FIRST_STEP, Group, KLD_RANGE, Probe, Probes, steps};
use crate::source::Model;

/// Tokens on which probe types are chosen.
const TRIAL_TOKENS: usize = 2 << 10;

/// What probes are made from.
pub struct ProbeInputs<'a> {
    pub model: &'a Model,
    pub imatrix: &'a Imatrix,
    pub groups: &'a [Group],
    /// Text whose tokens are told apart.
    pub chunks: &'a Chunks,
    pub memory: StreamOptions,
    /// Predicted KL of a tensor in a type, where it is known: spares trials.
    pub predicted: &'a dyn Fn(&str, GgmlType) -> Option<f64>,
}

/// Probes every group, each in types in which its mean KL lies in [`KLD_RANGE`] if there are such.
pub fn probe(device: &Device, inputs: &ProbeInputs, progress: &dyn Progress) -> Result<Probes> {
    let types = trials(device, inputs, progress)?;
    let chunks = inputs.chunks;
    let stream = Stream::new(device, inputs.model, &chunks.tokens, chunks.ctx, inputs.memory)?;
    let reference = Reference::new(&stream, chunks, progress)?;
    progress.begin("probing groups", 2 * Parts::UNITS * types.len() as u64);
    let mut groups = Vec::new();
    for (group, types) in inputs.groups.iter().zip(types).filter(|(_, types)| !types.is_empty()) {
        let records = compare(device, inputs, &reference, &types, &Parts::new(progress))?;
        log::info!("probe of {}: {:.5} nats per token", group.name, mean(&records));
        // rounding of logits may leave a KL a little below 0
        let kld = records.iter().map(|record| record.kld.max(0.0) as f32).collect();
        groups.push(Probe { name: group.name.clone(), types, kld });
    }
    progress.end();
    if groups.is_empty() {
        bail!("no tensor has rows that fit a type to probe with: `{}`", inputs.model.path.display());
    }
    Ok(Probes {
        text_hash: chunks.hash.clone(),
        domains: chunks.domains.clone(),
        chunks: chunks.domain.clone(),
        groups,
    })
}

/// The probe types of every group, chosen on a part of the text; none for groups that cannot be encoded.
fn trials(device: &Device, inputs: &ProbeInputs, progress: &dyn Progress) -> Result<Vec<Types>> {
    let chunks = inputs.chunks.prefix(TRIAL_TOKENS / inputs.chunks.ctx);
    let stream = Stream::new(device, inputs.model, &chunks.tokens, chunks.ctx, inputs.memory)?;
    let reference = Reference::new(&stream, &chunks, progress)?;
    progress.begin("choosing probes", 2 * Parts::UNITS * inputs.groups.len() as u64);
    let mut chosen = Vec::new();
    for group in inputs.groups {
        let mut steps = steps(group, inputs.model)?;
        if steps.is_empty() {
            chosen.push(Types::new());
            continue;
        }
        let measure = |types: &Types| Ok(mean(&compare(device, inputs, &reference, types, &Parts::new(progress))?));
        let at = within_range(steps.len(), first_step(&steps, inputs.predicted), |step| measure(&steps[step]))?;
        chosen.push(steps.swap_remove(at));
    }
    progress.end();
    Ok(chosen)
}

/// The step whose predicted KL is nearest to the middle of the range, or a common one where nothing is known.
fn first_step(steps: &[Types], predicted: &dyn Fn(&str, GgmlType) -> Option<f64>) -> usize {
    let (low, high) = KLD_RANGE;
    let middle = (low * high).sqrt().ln();
    let known = steps.iter().enumerate().filter_map(|(step, types)| {
        let nats: f64 = types.iter().map(|(name, ty)| predicted(name, *ty)).sum::<Option<f64>>()?;
        (nats > 0.0).then(|| (step, (nats.ln() - middle).abs()))
    });
    let nearest = known.min_by(|a, b| a.1.total_cmp(&b.1));
    nearest.map_or(FIRST_STEP.min(steps.len() - 1), |(step, _)| step)
}

/// Walks from `step` towards the range until the KL is inside, would pass it by, or the steps end.
fn within_range(count: usize, mut step: usize, mut measure: impl FnMut(usize) -> Result<f64>) -> Result<usize> {
    let (low, high) = KLD_RANGE;
    let mut kld = measure(step)?;
    while kld < low && step + 1 < count {
        let coarser = measure(step + 1)?;
        // too much is worse than too little: such errors cost more than in proportion
        if coarser > high {
            return Ok(step);
        }
        (step, kld) = (step + 1, coarser);
    }
    while kld > high && step > 0 {
        step -= 1;
        kld = measure(step)?;
    }
    Ok(step)
}

fn compare(
    device: &Device,
    inputs: &ProbeInputs,
    reference: &Reference,
    types: &Types,
    progress: &dyn Progress,
) -> Result<Vec<TokenRecord>> {
    let source = Encoded { device, model: inputs.model, imatrix: Some(inputs.imatrix), types };
    reference.compare(&source, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(klds: &[f64], from: usize) -> usize {
        within_range(klds.len(), from, |step| Ok(klds[step])).unwrap()
    }

    #[test]
    fn probes_walk_into_the_range() {
        let klds = [1e-6, 1e-5, 1e-4, 0.002, 0.02, 0.2];
        for from in 0..klds.len() {
            assert_eq!(chosen(&klds, from), 3, "from {from}");
        }
        // nothing in the range: the most that is not beyond it
        assert_eq!(chosen(&[1e-5, 1e-4, 0.1], 0), 1);
        assert_eq!(chosen(&[1e-5, 1e-4, 0.1], 2), 1);
        assert_eq!(chosen(&[1e-6, 1e-5], 0), 1);
        assert_eq!(chosen(&[0.1, 0.5], 1), 0);
    }
}
