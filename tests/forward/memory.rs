//! How memory is used changes nothing in the result.

use dq_gpu::device::Device;
use dq_gpu::forward::{Stream, StreamOptions};
use dq_gpu::progress::Silent;

use crate::common;
use crate::golden::{Golden, logits_of, relative_difference};

/// 12 sequences of this many tokens.
const SEQ_LEN: usize = 16;
/// Products of other shapes add up in another order on the CPU; that is as much as f32 costs in the reference.
const BATCHES: f64 = 4e-6;

fn tokens(golden: &Golden) -> Vec<u32> {
    golden.tokens().repeat(2)
}

fn with(device: &Device, case: &str, options: StreamOptions) -> Vec<f32> {
    let golden = Golden::read(case);
    let model = golden.open();
    logits_of(device, &model, &model, &tokens(&golden), SEQ_LEN, options)
}

/// Runs a case with the default memory and with `other`, on every device.
fn check(what: &str, other: StreamOptions, bound: f64) {
    for device in common::devices() {
        for case in ["llama-bias", "mistral-window", "llama-tied"] {
            let usual = with(&device, case, StreamOptions::default());
            let difference = relative_difference(&usual, &with(&device, case, other));
            println!("{what}, {case}, {}: {difference:.1e}", device.name());
            assert!(difference <= bound, "{what}, {case}: {difference:.1e}");
        }
    }
}

#[test]
fn batches_of_any_size_give_the_same_logits() {
    check("one sequence a batch", StreamOptions { batch_tokens: 1, ..StreamOptions::default() }, BATCHES);
    check("a smaller last batch", StreamOptions { batch_tokens: 5 * SEQ_LEN, ..StreamOptions::default() }, BATCHES);
}

#[test]
fn hidden_states_on_disk_give_the_same_logits() {
    check("spilled", StreamOptions { hidden_budget: 0, ..StreamOptions::default() }, 0.0);
    check("spilled", StreamOptions { batch_tokens: 48, hidden_budget: 0, ..StreamOptions::default() }, BATCHES);
}

#[test]
fn vocabulary_tiles_of_any_size_give_the_same_logits() {
    check("a row a tile", StreamOptions { logits_tile_bytes: 1, ..StreamOptions::default() }, 1e-6);
    check("uneven tiles", StreamOptions { logits_tile_bytes: 192 * 4 * 37, ..StreamOptions::default() }, 1e-6);
}

#[test]
fn logits_come_in_order_by_batch_and_only_where_asked_for() {
    let golden = Golden::read("llama-f32");
    let (model, device) = (golden.open(), Device::cpu());
    let tokens = tokens(&golden);
    let options = StreamOptions { batch_tokens: 5 * SEQ_LEN, ..StreamOptions::default() };
    let stream = Stream::new(&device, &model, &tokens, SEQ_LEN, options).unwrap();
    let all = stream.logits(&model, 0..SEQ_LEN, &Silent).unwrap();

    let (mut some, mut sizes) = (Vec::new(), Vec::new());
    let mut visit = |logits: Vec<f32>| {
        sizes.push(logits.len() / model.hparams.n_vocab);
        some.extend(logits);
        Ok(())
    };
    stream.for_each_logits(&model, 3..7, &mut visit, &Silent).unwrap();
    assert_eq!(sizes, [5 * 4, 5 * 4, 2 * 4]);
    let row = |position: usize| &all[position * model.hparams.n_vocab..][..model.hparams.n_vocab];
    let wanted: Vec<f32> = (0..12).flat_map(|s| (3..7).map(move |p| s * SEQ_LEN + p)).flat_map(row).copied().collect();
    assert!(relative_difference(&wanted, &some) <= 1e-6);

    for scored in [0..0, 0..SEQ_LEN + 1] {
        let error = stream.logits(&model, scored, &Silent).unwrap_err().to_string();
        assert!(error.contains("no position to score"), "{error}");
    }
}

#[test]
fn tokens_that_cannot_be_run_are_refused() {
    let golden = Golden::read("llama-f32");
    let (model, device) = (golden.open(), Device::cpu());
    let refusal = |tokens: &[u32], seq_len| {
        let error = Stream::new(&device, &model, tokens, seq_len, StreamOptions::default()).err();
        error.expect("refused").to_string()
    };
    assert!(refusal(&[1, 2, 320], 3).contains("token id 320 is outside the vocabulary of 320"));
    assert!(refusal(&[1, 2, 3], 2).contains("no whole chunk of 2 tokens"));
    assert!(refusal(&[], 2).contains("no whole chunk"));
    assert!(refusal(&[1, 2], 0).contains("no whole chunk"));
}
