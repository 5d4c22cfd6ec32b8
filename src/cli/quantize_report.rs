//! What `quantize` prints: the file, what is in it, and how far it is from the original.

use std::path::PathBuf;

use serde::Serialize;

use super::domains::{DomainShare, domains_text};
use super::objective::outlook_line;
use super::output::{
    Report, StepTime, TypeShare, by_step, by_type, coverage_line, fallback_lines, line, nats, size_and_bpw,
    types_table, with_bits,
};
use super::table::{Align, Table, bytes, grouped};
use crate::imatrix::Coverage;
use crate::pipeline::guard::Guard;
use crate::pipeline::refine::Round;
use crate::plan::{Fallback, Outlook};

/// What `quantize` did.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizeReport {
    pub output: PathBuf,
    /// Of the whole file.
    pub bytes: u64,
    /// Bits of tensor data per weight.
    pub bpw: f64,
    /// Nats per token; none where the plan came without an analysis.
    pub predicted_kld: Option<f64>,
    /// Nats per token on held-out text, of the written file; none, like the next three, where it was not proven.
    pub measured_kld: Option<f64>,
    /// Standard error of `measured_kld`.
    pub measured_kld_se: Option<f64>,
    /// Share of held-out tokens with the same most probable next token, 0 to 1.
    pub same_top: Option<f64>,
    /// Held-out tokens measured.
    pub tokens: Option<usize>,
    /// Why the file was not proven, and what else was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_proven: Option<String>,
    /// The same by domain, where the text has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<DomainShare>,
    /// How it was found out what errors cost; empty where no plan needed it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sensitivity: String,
    /// What an objective beyond the mean predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Outlook>,
    /// Name of the device that did the work.
    pub device: String,
    /// How far the calibration text reached the experts, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<Coverage>,
    /// Quantized types of the source, where it was quantized already: against it the KL is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantized_source: Option<String>,
    /// What rounding with all of a layer's errors in view is worth, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Guard>,
    /// What each round of moving the plan found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Round>,
    #[serde(serialize_with = "by_step")]
    pub seconds: Vec<StepTime>,
    #[serde(serialize_with = "by_type")]
    pub types: Vec<TypeShare>,
    #[serde(serialize_with = "with_bits")]
    pub fallbacks: Vec<Fallback>,
}

impl QuantizeReport {
    /// The measured KL with its error, for people.
    fn measured(&self) -> Option<String> {
        let (kld, se) = self.measured_kld.zip(self.measured_kld_se)?;
        Some(format!("{} ± {}", nats(kld), nats(se)))
    }
}

impl Report for QuantizeReport {
    fn human(&self) -> String {
        let mut text = format!("{}\n{}\n", steps_table(&self.seconds), types_table(&self.types));
        text += &fallback_lines(&self.fallbacks);
        if !self.domains.is_empty() {
            text += &domains_text(&self.domains);
        }
        line(&mut text, "output", &self.output.display().to_string());
        line(&mut text, "size", &size_and_bpw(self.bytes, self.bpw));
        if let Some(kld) = self.predicted_kld {
            let by = if self.sensitivity.is_empty() { String::new() } else { format!(" ({})", self.sensitivity) };
            line(&mut text, "predicted KL", &format!("{} nats per token{by}", nats(kld)));
        }
        if let Some(outlook) = &self.objective {
            outlook_line(&mut text, outlook);
        }
        if let Some(guard) = &self.rounding {
            line(&mut text, "rounding", &guard_line(guard));
        }
        for (number, round) in self.rounds.iter().enumerate() {
            line(&mut text, &format!("round {}", number + 1), &round_line(round));
        }
        if let (Some(kld), Some(tokens)) = (self.measured(), self.tokens) {
            let tokens = grouped(tokens as u64);
            line(&mut text, "measured KL", &format!("{kld} nats per token on {tokens} held-out tokens"));
        }
        if let Some(same_top) = self.same_top {
            line(&mut text, "same top token", &percent(same_top));
        }
        if let Some(why) = &self.not_proven {
            line(&mut text, "not proven", why);
        }
        if let Some(coverage) = &self.experts {
            line(&mut text, "experts", &coverage_line(coverage));
        }
        if let Some(types) = &self.quantized_source {
            let note = "the KL is that to the quantized source, not to the model that it was made from";
            line(&mut text, "source", &format!("quantized already ({types}): {note}"));
        }
        line(&mut text, "device", &self.device);
        text
    }
}

fn guard_line(guard: &Guard) -> String {
    let (plain, rounded) = (nats(guard.plain), nats(guard.rounded));
    let kept = if guard.keeps_rounding() { "" } else { ": every block alone" };
    format!("KL {plain} -> {rounded} nats on {} other tokens{kept}", grouped(guard.tokens as u64))
}

fn round_line(round: &Round) -> String {
    let [low, high] = round.comparison.difference_ci95.map(|nats| 1e6 * nats);
    format!(
        "{} moved, KL {} {:+.1}e-6 nats [{low:+.1}, {high:+.1}]: {}",
        bytes(round.moved_bytes),
        nats(round.before),
        1e6 * round.comparison.difference,
        if round.accepted { "accepted" } else { "refused" }
    )
}

/// All files of one run, for people: one line each.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Ladder(pub Vec<QuantizeReport>);

impl Report for Ladder {
    fn human(&self) -> String {
        let right = |title| (title, Align::Right);
        let titles = [right("bpw"), right("bytes"), right("predicted KL"), right("measured KL"), right("same top")];
        let mut table = Table::new(&[&titles[..], &[("output", Align::Left)]].concat());
        for report in &self.0 {
            table.row([
                format!("{:.3}", report.bpw),
                grouped(report.bytes),
                report.predicted_kld.map_or("-".to_owned(), nats),
                report.measured().unwrap_or("-".to_owned()),
                report.same_top.map_or("-".to_owned(), percent),
                report.output.display().to_string(),
            ]);
        }
        table.to_string()
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn steps_table(steps: &[StepTime]) -> Table {
    let mut table = Table::new(&[("step", Align::Left), ("seconds", Align::Right)]);
    for step in steps {
        table.row([step.step.clone(), format!("{:.2}", step.seconds)]);
    }
    table.row(["total".to_owned(), format!("{:.2}", steps.iter().map(|step| step.seconds).sum::<f64>())]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::GgmlType;

    fn report() -> QuantizeReport {
        let note = |tensor: &str| Fallback { tensor: tensor.to_owned(), wanted: GgmlType::Q4_K, used: GgmlType::Q5_0 };
        QuantizeReport {
            output: "tiny.gguf".into(),
            bytes: 5_225_472,
            bpw: 4.498,
            predicted_kld: Some(0.0213),
            measured_kld: Some(0.0221),
            measured_kld_se: Some(0.0004),
            same_top: Some(0.934),
            tokens: Some(8192),
            not_proven: None,
            domains: Vec::new(),
            sensitivity: "reverse sweep".into(),
            objective: None,
            device: "CPU".into(),
            experts: None,
            quantized_source: None,
            rounding: Some(Guard { rounded: 0.02, plain: 0.05, tokens: 4096 }),
            rounds: Vec::new(),
            seconds: vec![
                StepTime { step: "read".into(), seconds: 0.5 },
                StepTime { step: "listen".into(), seconds: 2.25 },
            ],
            types: vec![
                TypeShare { ty: GgmlType::Q4_K, count: 3, bytes: 3000 },
                TypeShare { ty: GgmlType::Q6_K, count: 1, bytes: 1000 },
            ],
            fallbacks: vec![note("blk.0.ffn_down.weight"), note("blk.1.ffn_down.weight")],
        }
    }

    #[test]
    fn the_quantize_object_has_the_promised_fields() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["output"], "tiny.gguf");
        assert_eq!(json["bytes"], 5_225_472);
        assert_eq!(json["bpw"], 4.498);
        assert_eq!(json["predicted_kld"], 0.0213);
        assert_eq!(json["measured_kld"], 0.0221);
        assert_eq!(json["seconds"], serde_json::json!({"read": 0.5, "listen": 2.25}));
        let types = serde_json::json!({"Q4_K": {"count": 3, "bytes": 3000}, "Q6_K": {"count": 1, "bytes": 1000}});
        assert_eq!(json["types"], types);
        assert_eq!(json["fallbacks"][1]["tensor"], "blk.1.ffn_down.weight");
        assert_eq!(json["fallbacks"][1]["used"], "Q5_0");
        assert_eq!(json["fallbacks"][1]["used_bpw"], 5.5);
        assert_eq!(json["fallbacks"][1]["wanted_bpw"], 4.5);
    }

    #[test]
    fn people_see_every_number() {
        let text = report().human();
        for part in [
            "listen     2.25",
            "total      2.75",
            "Q4_K        3  3,000  75.0 %",
            "Q4_K -> Q5_0, 5.5 instead of 4.5 bits per weight: blk.0.ffn_down.weight and 1 more",
            "5,225,472 bytes (4.98 MiB), 4.498 bits per weight",
            "predicted KL    0.021300 nats",
            "rounding        KL 0.050000 -> 0.020000 nats on 4,096 other tokens",
            "0.022100 ± 0.000400 nats per token on 8,192 held-out tokens",
            "93.40 %",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }

    #[test]
    fn what_was_not_proven_has_no_figures() {
        let why = "dq-gpu has no forward pass for architecture `x`: no KL is measured".to_owned();
        let unproven = QuantizeReport {
            predicted_kld: None,
            measured_kld: None,
            measured_kld_se: None,
            same_top: None,
            tokens: None,
            not_proven: Some(why.clone()),
            rounding: None,
            ..report()
        };
        let json = serde_json::to_value(&unproven).unwrap();
        for key in ["predicted_kld", "measured_kld", "measured_kld_se", "same_top", "tokens"] {
            assert_eq!(json.get(key), Some(&serde_json::Value::Null), "{key}");
        }
        assert_eq!(json["not_proven"], why);
        let text = unproven.human();
        assert!(text.contains(&format!("not proven      {why}\n")), "{text}");
        assert!(!text.contains("measured KL") && !text.contains("same top"), "{text}");
        let ladder = Ladder(vec![report(), unproven]).human();
        assert!(ladder.lines().last().unwrap().contains(" -  "), "{ladder}");
    }
}
