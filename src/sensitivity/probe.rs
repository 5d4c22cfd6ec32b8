//! Group probes: the KL of every token when one group of tensors alone is written in a coarse type.
//!
//! A probe tells two things: how much errors of its group cost (its mean), which is the only sensitivity that a family without a
//! backward pass has, and which tokens they hurt (its profile), from which tails and averages over domains of any plan follow.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::embedding::embedding_rows;
use super::{Factor, Sensitivities};
use crate::arch::tensor_class::{Bands, class_name};
use crate::imatrix::Imatrix;
use crate::quant::{self, GgmlType};
use crate::source::Model;

/// Mean KL that a probe should have. The rounding of f32 logits shows far below it; above it costs are not in proportion to errors,
/// and single tensors are predicted worse.
pub const KLD_RANGE: (f64, f64) = (0.0005, 0.005);

/// Types of probes, the finest first. Rows that do not fit one take the next finer that they fit.
const LADDER: [GgmlType; 9] = [
    GgmlType::Q8_0,
    GgmlType::Q6_K,
    GgmlType::Q5_0,
    GgmlType::Q4_K,
    GgmlType::IQ4_NL,
    GgmlType::Q3_K,
    GgmlType::Q2_K,
    GgmlType::Q2_0,
    GgmlType::IQ1_S,
];

/// The step of the ladder that is tried first where nothing is known: Q2_K.
pub const FIRST_STEP: usize = 6;

/// Tensors that are probed together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Class and layers, for people: `attn_q 0-7`.
    pub name: String,
    pub tensors: Vec<String>,
}

/// The groups of these tensors: class by class and band by band of depth, the first layer for itself; groups that a tie binds
/// are one.
pub fn groups<'a>(names: impl IntoIterator<Item = &'a str>, ties: &[Vec<String>]) -> Vec<Group> {
    let names: Vec<&str> = names.into_iter().collect();
    let bands = Bands::with_first_alone(names.iter().copied());
    let mut groups: Vec<Group> = Vec::new();
    for name in names {
        let class = class_name(name);
        let title = match bands.of(name) {
            None => class.to_owned(),
            Some((first, last)) if first == last => format!("{class} {first}"),
            Some((first, last)) => format!("{class} {first}-{last}"),
        };
        match groups.iter_mut().find(|group| group.name == title) {
            Some(group) => group.tensors.push(name.to_owned()),
            None => groups.push(Group { name: title, tensors: vec![name.to_owned()] }),
        }
    }
    for tie in ties {
        let (tied, free): (Vec<Group>, Vec<Group>) =
            groups.into_iter().partition(|group| group.tensors.iter().any(|name| tie.contains(name)));
        groups = free;
        let title = tied.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(" + ");
        if !tied.is_empty() {
            groups.push(Group { name: title, tensors: tied.into_iter().flat_map(|group| group.tensors).collect() });
        }
    }
    groups
}

/// The type of rows of `cols` weights at a step of the ladder; none if not even the finest fits.
fn type_at(step: usize, cols: usize) -> Option<GgmlType> {
    LADDER[..=step].iter().rev().copied().find(|ty| ty.fits(cols) && quant::format(*ty).is_some())
}

/// The types of a group at each step of the ladder that makes a difference, the finest first.
pub fn steps(group: &Group, model: &Model) -> Result<Vec<BTreeMap<String, GgmlType>>> {
    let mut steps: Vec<BTreeMap<String, GgmlType>> = Vec::new();
    for step in 0..LADDER.len() {
        let mut types = BTreeMap::new();
        for name in &group.tensors {
            types.extend(type_at(step, model.require(name)?.cols).map(|ty| (name.clone(), ty)));
        }
        if !types.is_empty() && steps.last() != Some(&types) {
            steps.push(types);
        }
    }
    Ok(steps)
}

/// All probes of a model on one text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probes {
    /// Hash of the tokens.
    pub text_hash: String,
    pub domains: Vec<String>,
    /// Of each chunk of the text, an index into `domains`. All chunks have equally many tokens.
    pub chunks: Vec<u16>,
    pub groups: Vec<Probe>,
}

/// One group in its probe types.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub name: String,
    pub types: BTreeMap<String, GgmlType>,
    /// KL of every token, in nats, chunk after chunk.
    #[serde(serialize_with = "three_digits")]
    pub kld: Vec<f32>,
}

/// For people `[1.23e-4,5.60e-5,...]` on one line, in a quarter of the room of full precision on many.
fn three_digits<S: Serializer>(values: &[f32], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    if !serializer.is_human_readable() {
        return values.serialize(serializer);
    }
    let list = values.iter().map(|value| format!("{value:.2e}")).collect::<Vec<_>>().join(",");
    RawValue::from_string(format!("[{list}]")).map_err(serde::ser::Error::custom)?.serialize(serializer)
}

impl Probe {
    pub fn mean(&self) -> f64 {
        self.kld.iter().map(|kld| f64::from(*kld)).sum::<f64>() / self.kld.len().max(1) as f64
    }
}

impl Probes {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.groups.first().map_or(0, |group| group.kld.len())
    }

    /// Domain of each token.
    pub fn token_domains(&self) -> impl Iterator<Item = u16> {
        let per_chunk = self.tokens() / self.chunks.len().max(1);
        self.chunks.iter().flat_map(move |domain| std::iter::repeat_n(*domain, per_chunk))
    }

    pub fn validate(&self) -> Result<()> {
        let tokens = self.tokens();
        ensure!(tokens > 0 && !self.chunks.is_empty(), "the probes have no tokens");
        ensure!(tokens.is_multiple_of(self.chunks.len()), "{tokens} probed tokens are no whole chunks");
        ensure!(self.chunks.iter().all(|domain| usize::from(*domain) < self.domains.len()), "a domain has no name");
        for group in &self.groups {
            let found = group.kld.len();
            ensure!(found == tokens, "{found} tokens instead of {tokens} in the probe: `{}`", group.name);
            let valid = group.kld.iter().all(|kld| kld.is_finite() && *kld >= 0.0);
            ensure!(valid, "a KL divergence is no number from 0 up in the probe: `{}`", group.name);
        }
        Ok(())
    }

    /// Types in use, each once.
    pub fn types(&self) -> Vec<GgmlType> {
        let mut types: Vec<GgmlType> = self.groups.iter().flat_map(|group| group.types.values().copied()).collect();
        types.sort();
        types.dedup();
        types
    }

    /// `units` scaled so that every group costs in its probe types what its probe measured. `error(tensor, type)` is the
    /// prediction under `units`.
    pub fn factors(
        &self,
        units: Sensitivities,
        error: impl Fn(&str, GgmlType) -> Option<f64>,
    ) -> Result<Sensitivities> {
        let mut scaled = HashMap::new();
        let mut units = units.factors;
        for group in &self.groups {
            let mut sum = 0.0;
            for (name, ty) in &group.types {
                sum +=
                    error(name, *ty).with_context(|| format!("no error in {ty} is known of the tensor: `{name}`"))?;
            }
            if sum == 0.0 {
                log::warn!("its probe changes nothing, so the types of the group stay: `{}`", group.name);
                continue;
            }
            let scale = group.mean() / sum;
            for name in group.types.keys() {
                let mut factors = units.remove(name).with_context(|| format!("no unit factors: `{name}`"))?;
                for row in factors.iter_mut().flat_map(|factor| &mut factor.rows) {
                    *row = (f64::from(*row) * scale) as f32;
                }
                scaled.insert(name.clone(), factors);
            }
        }
        Ok(Sensitivities { factors: scaled, embedding_moments: None })
    }
}

/// Factors with which a prediction is the output error, so that all rows of a group count the same. Rows of the embedding count by
/// how often they are used, and relative to their size: a norm follows.
pub fn unit_factors<'a>(
    model: &Model,
    imatrix: &Imatrix,
    token_counts: &[u64],
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Sensitivities> {
    let mut factors = HashMap::new();
    for name in names {
        let tensor = model.require(name)?;
        let factor = if name == "token_embd.weight" && model.output_tensor() != name {
            Factor { rows: embedding_rows(model, tensor, token_counts)?, cols: vec![1.0; tensor.cols] }
        } else {
            Factor { rows: vec![2.0; tensor.rows], cols: imatrix.importance(name, tensor.cols, tensor.matrices()) }
        };
        factors.insert(name.to_owned(), vec![factor]);
    }
    Ok(Sensitivities { factors, embedding_moments: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_classes_in_bands_and_ties_stay_together() {
        let mut names = vec!["token_embd.weight".to_owned(), "output.weight".to_owned()];
        for layer in 0..8 {
            names.extend(["attn_q", "attn_k", "ffn_up"].map(|class| format!("blk.{layer}.{class}.weight")));
        }
        let all = groups(names.iter().map(String::as_str), &[]);
        assert_eq!(all.len(), 2 + 3 * 5);
        let layers = ["0", "1-2", "3-4", "5-6", "7"].map(|layers| format!("attn_q {layers}"));
        assert!(layers.iter().all(|name| all.iter().any(|group| group.name == *name)), "{all:?}");
        let tie = vec!["blk.2.attn_q.weight".to_owned(), "blk.2.attn_k.weight".to_owned()];
        let tied = groups(names.iter().map(String::as_str), &[tie]);
        assert_eq!(tied.len(), all.len() - 1);
        assert_eq!(tied.last().unwrap().name, "attn_q 1-2 + attn_k 1-2");
        assert_eq!(tied.iter().map(|group| group.tensors.len()).sum::<usize>(), names.len());
    }

    #[test]
    fn rows_take_the_coarsest_type_that_fits_them() {
        let last = LADDER.len() - 1;
        assert_eq!(
            [256, 64, 32, 48].map(|cols| type_at(last, cols)),
            [Some(GgmlType::IQ1_S), Some(GgmlType::Q2_0), Some(GgmlType::IQ4_NL), None]
        );
        assert_eq!(type_at(FIRST_STEP, 256), Some(GgmlType::Q2_K));
    }
}
