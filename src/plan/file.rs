//! Plans and their files, and the same plan in the syntax of `llama-quantize`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Target;
use super::analysis::{Analysis, padded};
use super::ftype::Ftype;
use super::mixes::{Fallback, nearest_ftype};
use crate::files;
use crate::quant::GgmlType;
use crate::whole_file::write_whole;

/// The version of the plan file that this program writes and reads.
pub const PLAN_VERSION: u32 = 1;

/// A type for every tensor that can be quantized, and what that should cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    /// Name or path of the model, for people.
    pub model: String,
    /// Fingerprint of the model that the plan was made for.
    pub fingerprint: String,
    /// Hash of the calibration tokens behind it; empty if none.
    #[serde(default)]
    pub calibration_hash: String,
    pub target: Target,
    /// Exact size of the file that the plan gives.
    pub bytes: u64,
    /// Bits of all tensor data per weight, unquantized tensors included, as llama.cpp counts them.
    pub bpw: f64,
    /// Predicted KL divergence in nats per token; none if a tensor's type was not measured.
    pub predicted_kld: Option<f64>,
    /// For `general.file_type`: the mixture that was asked for, else the nearest.
    pub file_type: Ftype,
    /// Blake3 of the assignment: see [`Plan::hash_of`].
    pub hash: String,
    /// Tensors whose rows do not fit the type they should have had.
    #[serde(default)]
    pub fallbacks: Vec<Fallback>,
    /// By GGUF name.
    pub tensors: BTreeMap<String, Assignment>,
}

/// The type of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    #[serde(rename = "type")]
    pub ty: GgmlType,
    /// Size of the tensor data without padding.
    pub bytes: u64,
    /// Its share of the predicted KL divergence, in nats per token.
    pub predicted: Option<f64>,
}

impl Plan {
    /// The plan that gives these types; every quantizable tensor of the analysis must have one that fits it.
    pub fn new(
        analysis: &Analysis,
        target: Target,
        types: &BTreeMap<String, GgmlType>,
        fallbacks: Vec<Fallback>,
    ) -> Result<Plan> {
        let mut tensors = BTreeMap::new();
        for tensor in analysis.quantizable() {
            let ty = *types.get(&tensor.name).with_context(|| format!("no type for the tensor: `{}`", tensor.name))?;
            let bytes = tensor.bytes_as(ty).with_context(|| {
                format!("rows of {} weights do not fit {ty} in the tensor: `{}`", tensor.cols, tensor.name)
            })?;
            tensors.insert(tensor.name.clone(), Assignment { ty, bytes, predicted: tensor.predicted(ty) });
        }
        if let Some(name) = types.keys().find(|name| !tensors.contains_key(*name)) {
            let why = if analysis.tensor(name).is_some() { "is never quantized" } else { "is not in the model" };
            anyhow::bail!("a planned tensor {why}: `{name}`");
        }
        let data: u64 = tensors.values().map(|tensor| tensor.bytes).sum::<u64>() + analysis.unquantizable_bytes(|n| n);
        let file_type = match target {
            Target::Type(ftype) => ftype,
            _ => nearest_ftype(types, &analysis.shape, &analysis.shapes()),
        };
        Ok(Plan {
            version: PLAN_VERSION,
            model: analysis.model.clone(),
            fingerprint: analysis.fingerprint.clone(),
            calibration_hash: analysis.calibration_hash.clone(),
            target,
            bytes: analysis.base_bytes() + tensors.values().map(|tensor| padded(tensor.bytes)).sum::<u64>(),
            bpw: data as f64 * 8.0 / analysis.elements() as f64,
            predicted_kld: tensors.values().map(|tensor| tensor.predicted).sum(),
            file_type,
            hash: Plan::hash_of(types),
            fallbacks,
            tensors,
        })
    }

    /// The same plan, its predictions scaled so that they add up to `kld`.
    pub fn scaled_to(mut self, kld: f64) -> Plan {
        if let Some(predicted) = self.predicted_kld.filter(|predicted| *predicted > 0.0) {
            // a mean of nearly nothing may be measured a little below 0
            let kld = kld.max(0.0);
            let nats = self.tensors.values_mut().filter_map(|tensor| tensor.predicted.as_mut());
            nats.for_each(|nats| *nats *= kld / predicted);
            self.predicted_kld = Some(kld);
        }
        self
    }

    /// The same plan, of which no KL is predicted: what it was made to keep small was in other units.
    pub fn unpredicted(mut self) -> Plan {
        self.tensors.values_mut().for_each(|tensor| tensor.predicted = None);
        self.predicted_kld = None;
        self
    }

    /// Type of each tensor.
    pub fn assignments(&self) -> BTreeMap<String, GgmlType> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.ty)).collect()
    }

    /// The type of one tensor; none for tensors that are never quantized.
    pub fn ty(&self, name: &str) -> Option<GgmlType> {
        self.tensors.get(name).map(|tensor| tensor.ty)
    }

    /// Number of tensors and bytes of each type in use.
    pub fn types(&self) -> BTreeMap<GgmlType, (usize, u64)> {
        let mut types = BTreeMap::new();
        for tensor in self.tensors.values() {
            let (count, bytes) = types.entry(tensor.ty).or_insert((0, 0));
            *count += 1;
            *bytes += tensor.bytes;
        }
        types
    }

    /// Blake3, in hex, of the lines `name TYPE\n` in the order of names. Equal for equal assignments, whatever led to them.
    pub fn hash_of(types: &BTreeMap<String, GgmlType>) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, ty) in types {
            hasher.update(format!("{name} {ty}\n").as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Writes `plan.json`, through a temporary file beside it.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }

    /// Reads a plan file and fits it to a model: the types are taken from it and all sizes computed anew. Predictions that
    /// the analysis lacks are kept as long as neither the plan nor the model has changed since it was made.
    pub fn read(path: &Path, analysis: &Analysis) -> Result<Plan> {
        let shown = path.display();
        let text = files::text(path).with_context(|| format!("cannot read the plan: `{shown}`"))?;
        // The version first: a later one may look different.
        let versioned: Versioned =
            serde_json::from_str(&text).with_context(|| format!("not a plan file: `{shown}`"))?;
        ensure!(
            versioned.version == PLAN_VERSION,
            "plan version {} is not the version {PLAN_VERSION} that this program reads: `{shown}`",
            versioned.version
        );
        let stored: Plan = serde_json::from_str(&text).with_context(|| format!("not a plan file: `{shown}`"))?;
        for (name, tensor) in &stored.tensors {
            let valid = tensor.predicted.is_none_or(|nats| nats.is_finite() && nats >= 0.0);
            ensure!(valid, "the predicted KL of tensor `{name}` is {:?}: `{shown}`", tensor.predicted);
        }
        let types = stored.assignments();
        let (edited, other) = (stored.hash != Plan::hash_of(&types), stored.fingerprint != analysis.fingerprint);
        if edited {
            log::warn!("the plan was edited after it was made: `{shown}`");
        }
        if other {
            log::warn!("the plan was made for another model, `{}`: `{shown}`", stored.model);
        }
        let mut plan = Plan::new(analysis, stored.target, &types, stored.fallbacks)
            .with_context(|| format!("the plan does not fit the model: `{shown}`"))?;
        if !edited && !other {
            for (name, tensor) in &mut plan.tensors {
                tensor.predicted = tensor.predicted.or(stored.tensors[name].predicted);
            }
            plan.predicted_kld = plan.tensors.values().map(|tensor| tensor.predicted).sum();
        }
        Ok(plan)
    }

    /// The plan as a file for `llama-quantize --tensor-type-file`: one `^escaped name$=type` per line. Names are anchored and
    /// escaped since it searches anywhere in a name and takes the first match; it lower-cases the pattern, so a name
    /// with capitals cannot be expressed.
    pub fn to_tensor_types(&self) -> Result<String> {
        let mut text = String::new();
        for (name, tensor) in &self.tensors {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            ensure!(name.chars().all(plain), "llama-quantize cannot match the name of the tensor: `{name}`");
            let escaped = name.replace('.', r"\.");
            writeln!(text, "^{escaped}$={}", tensor.ty.name().to_ascii_lowercase())?;
        }
        Ok(text)
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Writes pretty JSON under its final name only when complete.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let written = write_whole(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        Ok(file.write_all(b"\n")?)
    });
    written.with_context(|| format!("cannot write the file: `{}`", path.display()))
}
