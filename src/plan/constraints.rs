//! What a plan may use: type lists and profiles for all tensors, rules for some of them, ties between them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use regex::Regex;

use super::Target;
use super::analysis::{Analysis, Candidate, TensorAnalysis};
use super::mixes::Fallback;
use crate::quant::{GgmlType, fallback};

/// A set of types that suits an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Every type that mainline llama.cpp has had for years: the smallest error for the bytes.
    #[default]
    Quality,
    /// Types with fast kernels on x86 and ARM processors.
    Cpu,
    /// Types with fast Metal kernels.
    Apple,
    /// Types that even old readers and other engines know: K-quants and the legacy formats.
    Compatible,
}

impl Profile {
    /// Names accepted by `--profile`.
    pub const NAMES: [&str; 4] = ["quality", "cpu", "apple", "compatible"];

    /// Whether plans of this profile use `ty`. Plain floats are always allowed.
    pub fn allows(self, ty: GgmlType) -> bool {
        use GgmlType::*;
        if !ty.is_quantized() {
            return matches!(ty, F32 | F16 | BF16);
        }
        let legacy = matches!(ty, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0);
        let k_quant = matches!(ty, Q2_K | Q3_K | Q4_K | Q5_K | Q6_K);
        match self {
            // Ternary and one-bit types are for models trained to them; NVFP4, Q1_0 and Q2_0 are unknown to older readers.
            Profile::Quality => !matches!(ty, TQ1_0 | TQ2_0 | NVFP4 | Q1_0 | Q2_0),
            Profile::Cpu | Profile::Apple => legacy || k_quant || ty == IQ4_NL,
            Profile::Compatible => legacy || k_quant,
        }
    }

    /// Whether plans of this profile use `ty` where it holds every weight exactly.
    pub fn allows_lossless(self, ty: GgmlType) -> bool {
        self.allows(ty) || self == Profile::Quality && matches!(ty, GgmlType::TQ1_0 | GgmlType::TQ2_0)
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(name: &str) -> Result<Profile> {
        Ok(match name {
            "quality" => Profile::Quality,
            "cpu" => Profile::Cpu,
            "apple" => Profile::Apple,
            "compatible" => Profile::Compatible,
            _ => bail!("unknown profile, expected one of {}: `{name}`", Profile::NAMES.join(", ")),
        })
    }
}

/// What a rule demands of the tensors that its pattern matches.
#[derive(Clone, Debug, PartialEq)]
pub enum Demand {
    /// Exactly this type (or llama.cpp's replacement where rows do not fit). `--keep`.
    Keep(GgmlType),
    /// At least the bits per weight of this type.
    AtLeast(GgmlType),
    /// One of these types.
    OneOf(Vec<GgmlType>),
}

/// A demand on all tensors whose GGUF name matches a pattern (anywhere in the name, case-sensitive).
#[derive(Clone, Debug)]
pub struct Rule {
    pub pattern: Regex,
    pub demand: Demand,
}

impl Rule {
    /// Parses the value of `--keep`: `REGEX=TYPE`, split at the last `=`.
    pub fn keep(text: &str) -> Result<Rule> {
        let (pattern, ty) = text.rsplit_once('=').with_context(|| format!("`--keep` wants REGEX=TYPE: `{text}`"))?;
        Ok(Rule { pattern: compile(pattern)?, demand: Demand::Keep(parse_type(ty)?) })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern.as_str().fmt(f)
    }
}

fn compile(pattern: &str) -> Result<Regex> {
    ensure!(!pattern.is_empty(), "a pattern for tensor names is empty");
    // The regex crate explains over several lines; its last line says what is wrong.
    Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        anyhow::anyhow!("not a regular expression ({reason}): `{pattern}`")
    })
}

fn parse_type(name: &str) -> Result<GgmlType> {
    let ty = GgmlType::from_name(name.trim()).with_context(|| format!("unknown tensor type: `{name}`"))?;
    ensure!(Profile::Quality.allows(ty) || ty.is_quantized(), "weights cannot be stored in the type: `{name}`");
    Ok(ty)
}

/// Parses the value of `--types`: type names separated by commas.
pub fn parse_types(list: &str) -> Result<Vec<GgmlType>> {
    let mut types = Vec::new();
    for name in list.split(',').filter(|name| !name.trim().is_empty()) {
        let ty = parse_type(name)?;
        if !types.contains(&ty) {
            types.push(ty);
        }
    }
    ensure!(!types.is_empty(), "the list of types is empty: `{list}`");
    Ok(types)
}

/// Everything the user demands of a plan besides its target.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// Only these types, whatever the profile (`--types`).
    pub types: Option<Vec<GgmlType>>,
    pub profile: Profile,
    /// Of several matching [`Demand::Keep`] rules the first wins; the other demands all apply.
    pub rules: Vec<Rule>,
    /// Groups of tensor names that must share one type, besides those of the analysis.
    pub ties: Vec<Vec<String>>,
    /// Whether importance data is at hand, which some of llama.cpp's mixture rules ask.
    pub has_imatrix: bool,
    /// No type of fewer bits per weight, unless [`Constraints::types`] or a rule names it.
    pub floor_bpw: f64,
}

/// Share of the target's bits per weight below which types are not offered. Errors that large leave the range in which
/// predictions hold, and a planner picks them where the prediction is most wrong: on the sample models plans for 4 to 5
/// bits measured 5 to 20 % less KL without 2-bit types, although their predicted KL was higher.
const COARSEST_SHARE: f64 = 0.65;

impl Constraints {
    /// The same demands, with the floor that suits a target.
    pub fn for_target(&self, target: &Target, analysis: &Analysis) -> Constraints {
        let weights: u64 = analysis.quantizable().map(TensorAnalysis::elements).sum();
        let bpw = match target {
            Target::Size(bytes) => bytes.saturating_sub(analysis.base_bytes()) as f64 * 8.0 / weights.max(1) as f64,
            Target::Bpw(bpw) => *bpw,
            Target::MaxKld(_) | Target::Type(_) | Target::Pure(_) => 0.0,
        };
        // A generous target is no reason to leave out types that most tensors could have.
        Constraints { floor_bpw: (COARSEST_SHARE * bpw).min(GgmlType::IQ4_XS.bpw()), ..self.clone() }
    }

    /// Whether a type may be planned for some tensor, as far as the floor and rules are concerned.
    pub fn is_considered(&self, ty: GgmlType) -> bool {
        let named = self.rules.iter().any(|rule| match &rule.demand {
            Demand::Keep(kept) => *kept == ty,
            Demand::OneOf(types) => types.contains(&ty),
            Demand::AtLeast(_) => false,
        });
        self.types.is_some() || named || ty.bpw() >= self.floor_bpw
    }

    /// Every rule must match a tensor that can be quantized, and every tie must name known ones.
    pub fn check(&self, analysis: &Analysis) -> Result<()> {
        for rule in &self.rules {
            if !analysis.quantizable().any(|tensor| rule.pattern.is_match(&tensor.name)) {
                let fixed = analysis.tensors.iter().any(|tensor| rule.pattern.is_match(&tensor.name));
                let why = if fixed { "only matches tensors that are never quantized" } else { "matches no tensor" };
                bail!("the pattern {why}: `{rule}`");
            }
        }
        for name in self.ties.iter().flatten() {
            ensure!(analysis.tensor(name).is_some(), "a tie names an unknown tensor: `{name}`");
        }
        Ok(())
    }

    /// The type that a `--keep` rule gives this tensor.
    pub fn kept(&self, name: &str) -> Option<GgmlType> {
        self.rules.iter().find_map(|rule| match rule.demand {
            Demand::Keep(ty) if rule.pattern.is_match(name) => Some(ty),
            _ => None,
        })
    }

    /// The types that stand in for listed ones that do not fit the rows of this tensor, unless they are listed too.
    pub(super) fn replacements(&self, tensor: &TensorAnalysis) -> Vec<Fallback> {
        let listed = self.types.as_deref().unwrap_or_default();
        let mut found: Vec<Fallback> = Vec::new();
        for &wanted in listed {
            let Ok(used) = fallback(wanted, tensor.cols as usize) else { continue };
            if !listed.contains(&used) && !found.iter().any(|other| other.used == used) {
                found.push(Fallback { tensor: tensor.name.clone(), wanted, used });
            }
        }
        found
    }

    /// Measured types that this tensor may take. Never empty: a tensor without any is an error that says why.
    pub(super) fn allowed(&self, tensor: &TensorAnalysis) -> Result<Vec<GgmlType>> {
        let lossless = |ty: GgmlType| tensor.candidate(ty).is_some_and(Candidate::is_lossless);
        let measured: Vec<GgmlType> = tensor.candidates.iter().map(|candidate| candidate.ty).collect();
        ensure!(
            !measured.is_empty(),
            "no type was measured for this tensor, so only `--type`, `--pure` or `--keep` can give it one: `{}`",
            tensor.name
        );
        // A listed type that does not fit the rows stands for the type that llama.cpp would put in its place.
        let listed = match &self.types {
            None => None,
            Some(types) => {
                Some(types.iter().map(|&ty| fallback(ty, tensor.cols as usize)).collect::<Result<Vec<_>>>()?)
            }
        };
        let demanded = |ty: GgmlType| {
            self.rules.iter().filter(|rule| rule.pattern.is_match(&tensor.name)).all(|rule| match &rule.demand {
                Demand::Keep(_) => true,
                Demand::AtLeast(floor) => ty.bpw() >= floor.bpw(),
                Demand::OneOf(types) => types.contains(&ty),
            })
        };
        let profile = |ty: GgmlType| self.profile.allows(ty) || lossless(ty) && self.profile.allows_lossless(ty);
        let offered = |ty: GgmlType| listed.as_ref().map_or_else(|| profile(ty), |list| list.contains(&ty));
        let considered = |ty: GgmlType| self.is_considered(ty) || lossless(ty);
        let allowed: Vec<GgmlType> =
            measured.iter().copied().filter(|&ty| offered(ty) && demanded(ty) && considered(ty)).collect();
        ensure!(
            !allowed.is_empty(),
            "none of the measured types ({}) is allowed for the tensor: `{}`",
            measured.iter().map(|ty| ty.name()).collect::<Vec<_>>().join(", "),
            tensor.name
        );
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_rules_parse_or_explain() {
        let rule = Rule::keep(r"ffn_(up|down)=q6_k").unwrap();
        assert_eq!(rule.demand, Demand::Keep(GgmlType::Q6_K));
        assert!(rule.pattern.is_match("blk.0.ffn_down.weight"));
        for (text, part) in [
            ("output", "REGEX=TYPE"),
            ("output=Q9_K", "unknown tensor type: `Q9_K`"),
            ("output=I32", "cannot be stored"),
            ("(=Q4_K", "unclosed group"),
            ("=Q4_K", "empty"),
        ] {
            let error = Rule::keep(text).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn type_lists() {
        assert_eq!(parse_types("Q4_K, q6_k,Q4_K").unwrap(), [GgmlType::Q4_K, GgmlType::Q6_K]);
        assert!(parse_types(",").is_err() && parse_types("Q4_K,x").is_err());
    }
}
