//! llama.cpp's own mixtures: which type `llama-quantize` gives each tensor for a file type.
//!
//! The rules look at names, shapes and a few hyper-parameters only (`src/llama-quant.cpp` of llama.cpp, build of
//! 2026-10-01). `tests/mixes.rs` checks them against llama.cpp's own snapshots of twelve models.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::ftype::Ftype;
use super::vram::RunShape;
use crate::arch::tensor_class::{layer_index, may_quantize};
use crate::imatrix::fit::needs_importance;
use crate::quant::{GgmlType, fallback};

/// Hyper-parameters that the rules and memory budgets ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShape {
    /// `general.architecture`.
    pub architecture: String,
    /// `{arch}.block_count`: all layers, those of multi-token prediction too.
    pub block_count: u32,
    /// `{arch}.attention.head_count` of layer 0.
    pub head_count: u32,
    /// `{arch}.attention.head_count_kv` of layer 0; the same as `head_count` where the key is missing.
    pub head_count_kv: u32,
    /// `{arch}.expert_count`, 0 for dense models.
    #[serde(default)]
    pub expert_count: u32,
    /// What `--vram` asks, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunShape>,
}

impl ModelShape {
    /// From a model's metadata: `number(key)` gives a whole number, of layer 0 where the key holds one per layer.
    pub fn from_keys(architecture: &str, number: impl Fn(&str) -> Option<u32>) -> Result<ModelShape> {
        let get = |key: &str| number(&format!("{architecture}.{key}"));
        let block_count =
            get("block_count").with_context(|| format!("the metadata has no key: `{architecture}.block_count`"))?;
        let head_count = get("attention.head_count").unwrap_or(0);
        Ok(ModelShape {
            architecture: architecture.to_owned(),
            block_count,
            head_count,
            head_count_kv: get("attention.head_count_kv").unwrap_or(head_count),
            expert_count: get("expert_count").unwrap_or(0),
            run: None,
        })
    }

    /// Query heads per key/value head, rounded down; 0 without key/value heads.
    fn gqa(&self) -> u32 {
        self.head_count.checked_div(self.head_count_kv).unwrap_or(0)
    }

    /// llama.cpp's class "70B", for which grouped values get more bits.
    fn is_70b(&self) -> bool {
        match self.architecture.as_str() {
            "llama" => self.block_count == 80 && self.expert_count != 8 && self.head_count != self.head_count_kv,
            "qwen2" | "deci" | "olmo" => self.block_count == 80,
            "jais2" => self.block_count == 68,
            _ => false,
        }
    }
}

/// What the rules need to know of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorShape<'a> {
    pub name: &'a str,
    /// ggml's ne order.
    pub dims: &'a [u64],
}

/// A tensor whose rows do not fit the type it should have had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    pub tensor: String,
    pub wanted: GgmlType,
    pub used: GgmlType,
}

/// The types of one mixture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    /// A type for every tensor that may be quantized.
    pub types: BTreeMap<String, GgmlType>,
    pub fallbacks: Vec<Fallback>,
    /// Tensors that `llama-quantize` refuses to write without importance data.
    pub need_imatrix: Vec<String>,
}

impl Mix {
    /// The distinct types in use, so that a caller can tell which encoders it needs.
    pub fn types_used(&self) -> BTreeSet<GgmlType> {
        self.types.values().copied().collect()
    }
}

/// The type of a tensor that is exempt from the rules, by name.
pub type Pins<'a> = &'a dyn Fn(&str) -> Option<GgmlType>;

/// How to mix.
#[derive(Clone, Copy, Default)]
pub struct MixOptions<'a> {
    /// Give every tensor the file type's default type (`--pure`).
    pub pure: bool,
    /// Whether importance data is at hand.
    pub has_imatrix: bool,
    /// Types for single tensors (`--tensor-type`, `--keep`). Such tensors do not count in the rules about layers.
    pub pinned: Option<Pins<'a>>,
}

/// The types that `llama-quantize` gives `tensors` (all tensors of the file, in any order) for `ftype`.
pub fn mix(ftype: Ftype, model: &ModelShape, tensors: &[TensorShape], options: MixOptions) -> Result<Mix> {
    let mut order: Vec<&TensorShape> = tensors.iter().collect();
    order.sort_by(|a, b| loader_order(a.name, b.name));
    let mut rules = Rules::new(ftype, model, &order, options.has_imatrix);
    let mut mix = Mix::default();
    for tensor in order {
        if !may_quantize(tensor.name, tensor.dims, &model.architecture) {
            continue;
        }
        let default = ftype.default_type();
        let mut ty = default;
        if default.is_quantized() {
            ty = match options.pinned.and_then(|pinned| pinned(tensor.name)) {
                Some(pinned) => pinned,
                None if options.pure => default,
                None => rules.choose(tensor)?,
            };
            let used = fallback(ty, tensor.dims[0] as usize).with_context(|| format!("tensor: `{}`", tensor.name))?;
            if used != ty {
                mix.fallbacks.push(Fallback { tensor: tensor.name.to_owned(), wanted: ty, used });
            }
            ty = used;
        }
        if needs_imatrix(tensor.name, ty, ftype) {
            mix.need_imatrix.push(tensor.name.to_owned());
        }
        mix.types.insert(tensor.name.to_owned(), ty);
    }
    Ok(mix)
}

/// The order in which llama.cpp visits tensors: those outside layers first, then by layer number, then by name.
pub fn loader_order(a: &str, b: &str) -> Ordering {
    let layer = |name: &str| layer_index(name).map_or(-1, |layer| layer as i64);
    layer(a).cmp(&layer(b)).then_with(|| a.cmp(b))
}

/// Whether `llama-quantize` demands importance data for this tensor.
pub fn needs_imatrix(name: &str, ty: GgmlType, ftype: Ftype) -> bool {
    if matches!(name, "output.weight" | "token_embd.weight" | "per_layer_token_embd.weight") {
        return false;
    }
    needs_importance(ty) || ty == GgmlType::Q2_K && ftype == Ftype::Q2_K_S
}

/// The file type whose own mixture is nearest to these types: the least mean difference in bits per weight, where another
/// type of the same width counts as a small difference.
pub fn nearest_ftype(types: &BTreeMap<String, GgmlType>, model: &ModelShape, tensors: &[TensorShape]) -> Ftype {
    const OTHER_TYPE: f64 = 0.05;
    let distance = |ftype: Ftype| -> Option<f64> {
        let mix = mix(ftype, model, tensors, MixOptions { has_imatrix: true, ..MixOptions::default() }).ok()?;
        let differences = tensors.iter().filter_map(|tensor| {
            let (ours, theirs) = (*types.get(tensor.name)?, *mix.types.get(tensor.name)?);
            let elements = tensor.dims.iter().product::<u64>() as f64;
            let other = if ours == theirs { 0.0 } else { OTHER_TYPE };
            Some(elements * ((ours.bpw() - theirs.bpw()).abs() + other))
        });
        Some(differences.sum())
    };
    let distances = Ftype::ALL.iter().filter_map(|&ftype| Some((ftype, distance(ftype)?)));
    distances.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(Ftype::F16, |(ftype, _)| ftype)
}

/// What a tensor does, as far as the rules distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Output,
    TokenEmbd,
    /// Values, alone or fused with queries and keys.
    Value,
    Key,
    Query,
    AttnOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

impl Role {
    fn of(name: &str) -> Role {
        const PARTS: &[(&str, Role)] = &[
            ("attn_qkv.weight", Role::Value),
            ("attn_kv_b.weight", Role::Value),
            ("attn_v.weight", Role::Value),
            ("attn_k.weight", Role::Key),
            ("attn_q.weight", Role::Query),
            ("attn_output.weight", Role::AttnOutput),
            ("ffn_up", Role::FfnUp),
            ("ffn_gate", Role::FfnGate),
            ("ffn_down", Role::FfnDown),
        ];
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Role::TokenEmbd,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Role::Other, |&(_, role)| role),
        }
    }
}

/// The first and last eighth of the layers, and every third between them.
fn more_bits(i: u32, n: u32) -> bool {
    i < n / 8 || i >= last_8th(n) || (i - n / 8) % 3 == 2
}

/// Where the last eighth of n layers begins; n may be any number of a file.
fn last_8th(n: u32) -> u32 {
    (7 * u64::from(n) / 8) as u32
}

/// The rules with their counters: some depend on how many tensors of a role came before.
struct Rules<'a> {
    ftype: Ftype,
    model: &'a ModelShape,
    has_imatrix: bool,
    tied: bool,
    values: u32,
    seen_values: u32,
    seen_up: u32,
    seen_gate: u32,
    seen_down: u32,
}

impl<'a> Rules<'a> {
    fn new(ftype: Ftype, model: &'a ModelShape, tensors: &[&TensorShape], has_imatrix: bool) -> Rules<'a> {
        let count = |role: Role| tensors.iter().filter(|tensor| Role::of(tensor.name) == role).count() as u32;
        let (tied, values) = (count(Role::Output) == 0, count(Role::Value));
        Rules { ftype, model, has_imatrix, tied, values, seen_values: 0, seen_up: 0, seen_gate: 0, seen_down: 0 }
    }

    /// The type for the next tensor, before the shape is considered.
    fn choose(&mut self, tensor: &TensorShape) -> Result<GgmlType> {
        use Ftype as F;
        use GgmlType::*;
        let (role, default) = (Role::of(tensor.name), self.ftype.default_type());
        if self.model.architecture == "glm5-next"
            && ["attn_q_a", "attn_q_b", "nextn.eh_proj"].iter().any(|part| tensor.name.contains(part))
        {
            return Ok(Q8_0);
        }
        if role == Role::Output || role == Role::TokenEmbd && self.tied {
            return Ok(self.output(tensor.dims[0]));
        }
        if self.ftype == F::MXFP4_MOE {
            return Ok(self.mxfp4(role, tensor.dims));
        }
        if role == Role::TokenEmbd {
            return Ok(match self.ftype {
                F::IQ1_S | F::IQ1_M | F::IQ2_XXS | F::IQ2_XS => Q2_K,
                F::IQ2_S | F::IQ2_M | F::IQ3_XXS => IQ3_S,
                F::TQ1_0 | F::TQ2_0 | F::Q2_0 => Q4_K,
                _ => default,
            });
        }
        if matches!(self.ftype, F::IQ1_S | F::IQ1_M | F::IQ2_XXS | F::IQ2_XS | F::IQ2_S | F::IQ2_M) {
            return Ok(self.very_low(role));
        }
        match role {
            Role::Value => Ok(self.value()),
            Role::Key if self.model.expert_count == 8 => Ok(Q8_0),
            Role::Key | Role::Query => Ok(match self.ftype {
                F::IQ3_XS => IQ3_XXS,
                F::IQ3_XXS => IQ2_S,
                _ => default,
            }),
            Role::AttnOutput => Ok(self.attn_output()),
            Role::FfnDown => {
                let layer = self.ffn_layer(self.seen_down, tensor.name)?;
                self.seen_down += 1;
                Ok(self.ffn_down(layer))
            }
            Role::FfnGate => {
                let layer = self.ffn_layer(self.seen_gate, tensor.name)?;
                self.seen_gate += 1;
                Ok(self.ffn_in(layer))
            }
            Role::FfnUp => {
                let layer = self.ffn_layer(self.seen_up, tensor.name)?;
                self.seen_up += 1;
                Ok(self.ffn_in(layer))
            }
            Role::Output | Role::TokenEmbd | Role::Other => Ok(default),
        }
    }

    /// The layer of a feed-forward tensor: counted in dense models, read from the name where there are experts.
    fn ffn_layer(&self, seen: u32, name: &str) -> Result<u32> {
        if self.model.expert_count <= 1 {
            return Ok(seen);
        }
        let layer =
            layer_index(name).with_context(|| format!("no layer number in the name of the tensor: `{name}`"))?;
        ensure!(
            layer < self.model.block_count as usize,
            "layer {layer} is not among the {} layers of the model: `{name}`",
            self.model.block_count
        );
        Ok(layer as u32)
    }

    fn is_falcon(&self) -> bool {
        self.model.architecture == "falcon"
    }

    fn output(&self, cols: u64) -> GgmlType {
        use Ftype as F;
        use GgmlType::*;
        let default = self.ftype.default_type();
        let fits = cols.is_multiple_of(default.block_len() as u64);
        match self.ftype {
            F::MXFP4_MOE => Q8_0,
            _ if self.is_falcon() || !fits => Q8_0,
            F::IQ1_S | F::IQ1_M | F::IQ2_XXS | F::IQ2_XS | F::IQ2_S | F::IQ2_M | F::IQ3_XXS => Q5_K,
            _ if default == Q8_0 => Q8_0,
            _ => Q6_K,
        }
    }

    /// Stacked matrices become MXFP4, everything else Q8_0.
    fn mxfp4(&self, role: Role, dims: &[u64]) -> GgmlType {
        let stacked = dims.get(2).is_some_and(|&n| n > 1);
        let expert = matches!(role, Role::FfnUp | Role::FfnGate | Role::FfnDown);
        if stacked && (self.model.architecture != "bailingmoe3" || expert) { GgmlType::MXFP4 } else { GgmlType::Q8_0 }
    }

    /// File types below 3 bits keep the sensitive roles a little higher.
    fn very_low(&mut self, role: Role) -> GgmlType {
        use GgmlType::*;
        let default = self.ftype.default_type();
        let two_bit = matches!(self.ftype, Ftype::IQ2_S | Ftype::IQ2_M);
        let one_bit = matches!(self.ftype, Ftype::IQ1_S | Ftype::IQ1_M);
        let higher = if two_bit { IQ3_S } else { Q2_K };
        match role {
            Role::Value => {
                self.seen_values += 1;
                if self.model.gqa() >= 4 || self.model.expert_count >= 4 { Q4_K } else { higher }
            }
            Role::Key if self.model.expert_count == 8 => Q4_K,
            Role::FfnDown => {
                let early = self.seen_down < self.model.block_count / 8;
                self.seen_down += 1;
                if early { higher } else { default }
            }
            Role::AttnOutput if self.model.expert_count == 8 => Q5_K,
            Role::AttnOutput if one_bit => IQ2_XXS,
            Role::AttnOutput if two_bit => IQ3_S,
            _ => default,
        }
    }

    fn value(&mut self) -> GgmlType {
        use Ftype as F;
        use GgmlType::*;
        let (i, grouped) = (self.seen_values, self.model.gqa() >= 4);
        self.seen_values += 1;
        let ty = match self.ftype {
            F::Q2_K if grouped => Q4_K,
            F::Q2_K => Q3_K,
            F::Q2_K_S | F::IQ3_XXS | F::IQ3_XS | F::IQ3_S if grouped => Q4_K,
            F::IQ3_XXS if !self.has_imatrix => IQ3_S,
            F::IQ3_M => Q4_K,
            F::Q3_K_M if i < 2 => Q5_K,
            F::Q3_K_M => Q4_K,
            F::Q3_K_L => Q5_K,
            F::IQ4_NL | F::IQ4_XS if grouped => Q5_K,
            F::Q4_K_M | F::Q5_K_M if more_bits(i, self.values) => Q6_K,
            F::Q4_K_S if i < 4 => Q5_K,
            _ => self.ftype.default_type(),
        };
        match ty {
            _ if self.model.expert_count == 8 => Q8_0,
            Q3_K | Q4_K if self.model.is_70b() => Q5_K,
            _ => ty,
        }
    }

    fn attn_output(&self) -> GgmlType {
        use Ftype as F;
        use GgmlType::*;
        let default = self.ftype.default_type();
        if self.is_falcon() {
            return if self.ftype == F::Q3_K_L { Q4_K } else { default };
        }
        if self.model.expert_count == 8 {
            return match self.ftype {
                F::Q2_K | F::Q3_K_S | F::Q3_K_M | F::Q4_K_S | F::Q4_K_M | F::IQ4_NL | F::IQ4_XS => Q5_K,
                F::IQ3_XXS | F::IQ3_XS | F::IQ3_S | F::IQ3_M => Q5_K,
                _ => default,
            };
        }
        match self.ftype {
            F::Q2_K => Q3_K,
            F::IQ3_XXS => IQ3_S,
            F::Q3_K_M | F::IQ3_M => Q4_K,
            F::Q3_K_L => Q5_K,
            _ => default,
        }
    }

    fn ffn_down(&self, i: u32) -> GgmlType {
        use Ftype as F;
        use GgmlType::*;
        let n = self.model.block_count;
        let (first_8th, first_16th, more) = (i < n / 8, i < n / 16, more_bits(i, n));
        let falcon = self.is_falcon();
        match self.ftype {
            F::Q2_K => Q3_K,
            F::Q2_K_S if first_8th => Q4_K,
            F::IQ3_XXS if !self.has_imatrix && first_8th => Q4_K,
            F::IQ3_XXS if !self.has_imatrix => Q3_K,
            F::Q3_K_M if first_16th => Q5_K,
            F::Q3_K_M if falcon && !more => Q3_K,
            F::Q3_K_M => Q4_K,
            F::IQ3_M if first_8th || self.model.expert_count == 8 && more => Q4_K,
            F::Q3_K_L if falcon => Q4_K,
            F::Q3_K_L => Q5_K,
            F::Q4_K_M if falcon && first_16th => Q6_K,
            F::Q4_K_M if falcon && more => Q5_K,
            F::Q4_K_M if falcon => Q4_K,
            F::Q4_K_M | F::Q5_K_M if more => Q6_K,
            F::IQ4_NL | F::IQ4_XS if first_8th && !self.has_imatrix => Q5_K,
            F::Q4_K_S if first_8th && !falcon => Q5_K,
            F::Q4_0 if first_8th && self.has_imatrix => Q4_1,
            F::Q5_0 if first_8th && self.has_imatrix => Q5_1,
            _ => self.ftype.default_type(),
        }
    }

    /// Gate and up projections.
    fn ffn_in(&self, i: u32) -> GgmlType {
        let n = self.model.block_count;
        let middle = n / 8 <= i && i < last_8th(n);
        if self.ftype == Ftype::IQ3_XS && middle { GgmlType::IQ3_XXS } else { self.ftype.default_type() }
    }
}
