//! Comparing two models.

use dq_gpu::calibration::Chunks;
use dq_gpu::device::Device;
use dq_gpu::forward::{FinalStatesOf, Side, Stream, StreamOptions, diverge};
use dq_gpu::pipeline::{Scoring, prove};
use dq_gpu::progress::Silent;
use dq_gpu::quant::GgmlType;
use dq_gpu::source::Model;

use crate::common;
use crate::golden::{Golden, log_sum_exp, logits_of};
use crate::quantized::written;

fn chunks(tokens: Vec<u32>, ctx: usize) -> Chunks {
    let count = tokens.len() / ctx;
    Chunks {
        ctx,
        first: tokens.iter().step_by(ctx).copied().collect(),
        tokens,
        domain: vec![0; count],
        domains: vec!["golden".into()],
        hash: String::new(),
    }
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    for case in ["tiny-llama", "llama-tied"] {
        let golden = Golden::read(case);
        let (model, again) = (golden.open(), golden.open());
        let chunks = chunks(golden.tokens(), golden.seq_len());
        let options = StreamOptions { logits_tile_bytes: 100_000, ..StreamOptions::default() };
        for device in common::devices() {
            let found = prove(&device, &model, &again, &chunks, Scoring::All, options, &Silent).unwrap();
            assert_eq!(found.tokens.len(), chunks.tokens.len() - chunks.len());
            for token in &found.tokens {
                assert_eq!((token.kld, token.lp_base, token.same_top), (0.0, token.lp_quant, true));
            }
        }
    }
}

/// Against softmax in f64 of the logits that the passes give.
#[test]
fn the_divergence_of_a_quantized_model_is_that_of_its_logits() {
    let golden = Golden::read("tiny-llama");
    let (base, ctx) = (golden.open(), golden.seq_len());
    let folder = tempfile::tempdir().unwrap();
    let quant = written(&base, &folder.path().join("quantized"), |_| GgmlType::Q3_K);
    let chunks = chunks(golden.tokens(), ctx);
    let vocabulary = base.hparams.n_vocab;
    for device in common::devices() {
        let logits = |model: &Model| logits_of(&device, model, model, &chunks.tokens, ctx, StreamOptions::default());
        let (base_logits, quant_logits) = (logits(&base), logits(&quant));
        // One sequence a batch, and uneven tiles.
        let options = StreamOptions { batch_tokens: 1, logits_tile_bytes: 100_000, ..StreamOptions::default() };
        for (scoring, scored) in [(Scoring::All, 0..ctx - 1), (Scoring::SecondHalf, ctx / 2..ctx - 1)] {
            let found = prove(&device, &base, &quant, &chunks, scoring, options, &Silent).unwrap();
            let positions = (0..chunks.len()).flat_map(|chunk| scored.clone().map(move |at| (chunk, at)));
            let positions: Vec<(usize, usize)> = positions.collect();
            assert_eq!(found.tokens.len(), positions.len());
            let (mut mean, mut largest) = (0f64, 0f64);
            for ((chunk, at), (token, of)) in positions.iter().zip(found.tokens.iter().zip(&found.chunks)) {
                assert_eq!(*of as usize, *chunk);
                let position = chunk * ctx + at;
                let row = |logits: &'_ [f32]| logits[position * vocabulary..][..vocabulary].to_vec();
                let (p, q) = (row(&base_logits), row(&quant_logits));
                let (lse_p, lse_q) = (log_sum_exp(&p), log_sum_exp(&q));
                let kld: f64 = p
                    .iter()
                    .zip(&q)
                    .map(|(p, q)| {
                        let (log_p, log_q) = (f64::from(*p) - lse_p, f64::from(*q) - lse_q);
                        log_p.exp() * (log_p - log_q)
                    })
                    .sum();
                let target = chunks.tokens[position + 1] as usize;
                let top = |z: &[f32]| z.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
                let difference = (token.kld - kld).abs();
                assert!(difference <= 1e-5 + 1e-4 * kld, "{position}: {} {kld}", token.kld);
                assert!((token.lp_base - (f64::from(p[target]) - lse_p)).abs() <= 1e-4);
                assert!((token.lp_quant - (f64::from(q[target]) - lse_q)).abs() <= 1e-4);
                assert_eq!(token.same_top, top(&p) == top(&q));
                mean += kld / positions.len() as f64;
                largest = largest.max(difference);
            }
            println!("{} {scoring:?}: mean {mean:.5} nats, largest difference {largest:.1e}", device.name());
            assert!(mean > 0.01, "a quantized model differs");
        }
    }
}

/// Two architectures of one vocabulary, of which different numbers of sequences fit the memory.
#[test]
fn models_that_need_different_memory_are_compared() {
    let golden = Golden::read("tiny-llama");
    let (base, quant, device) = (golden.open(), Golden::read("tiny-qwen3").open(), Device::cpu());
    let chunks = chunks(golden.tokens().repeat(4), golden.seq_len());
    let divergence = |activation_budget| {
        let options = StreamOptions { activation_budget, ..StreamOptions::default() };
        prove(&device, &base, &quant, &chunks, Scoring::All, options, &Silent).unwrap()
    };
    let wanted = divergence(1 << 30);
    for mebibytes in 2..8 {
        let found = divergence(mebibytes << 20);
        assert_eq!(found.chunks, wanted.chunks);
        for (found, wanted) in found.tokens.iter().zip(&wanted.tokens) {
            assert!((found.kld - wanted.kld).abs() <= 1e-4, "{} {}", found.kld, wanted.kld);
        }
    }
}

#[test]
fn a_model_of_another_vocabulary_is_refused() {
    let (golden, other) = (Golden::read("tiny-llama"), Golden::read("llama-f32"));
    let (base, quant) = (golden.open(), other.open());
    // Tokens that both know, so that nothing else can be wrong.
    let chunks = chunks(other.tokens(), other.seq_len());
    let options = StreamOptions::default();
    let error = prove(&Device::cpu(), &base, &quant, &chunks, Scoring::All, options, &Silent).err().unwrap();
    let message = format!("{error:#}");
    for part in ["different vocabularies cannot be compared", "tiny-llama` has 4096", "llama-f32` has 320"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn only_the_same_positions_are_compared() {
    let golden = Golden::read("llama-f32");
    let (model, device, tokens) = (golden.open(), Device::cpu(), golden.tokens());
    let stream = |tokens, seq_len, batch_tokens| {
        let options = StreamOptions { batch_tokens, ..StreamOptions::default() };
        Stream::new(&device, &model, tokens, seq_len, options).unwrap()
    };
    let base = stream(&tokens, 48, 2048);
    let base = Side { stream: &base, weights: &model }.run(0..47, "", &Silent).unwrap();
    let refusal = |quant: &FinalStatesOf, scored| diverge(&base, quant, scored, &Silent).err().unwrap().to_string();

    let again = stream(&tokens, 48, 2048);
    let fewer = Side { stream: &again, weights: &model }.run(0..46, "", &Silent).unwrap();
    assert!(refusal(&fewer, 0..47).contains("at the positions to compare"));
    assert!(refusal(&fewer, 0..48).contains("no next token"));
    let reversed: Vec<u32> = tokens.iter().rev().copied().collect();
    for other in [stream(&tokens, 24, 2048), stream(&reversed, 48, 2048)] {
        let other = Side { stream: &other, weights: &model }.run(0..23, "", &Silent).unwrap();
        assert!(refusal(&other, 0..47).contains("the same chunks of tokens"));
    }
    let batches = stream(&tokens, 48, 48);
    let batches = Side { stream: &batches, weights: &model }.run(0..47, "", &Silent).unwrap();
    assert!(refusal(&batches, 0..47).contains("the same batches"));
}
