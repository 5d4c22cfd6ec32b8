//! The importance matrix against transformers and against llama-imatrix.

use std::fs;

use dq_gpu::calibration::Chunks;
use dq_gpu::device::Device;
use dq_gpu::forward::{Stream, StreamOptions};
use dq_gpu::imatrix::Imatrix;
use dq_gpu::imatrix::collect::Collector;
use dq_gpu::pipeline::listen;
use dq_gpu::progress::Silent;
use dq_gpu::source::Model;
use dq_gpu::tokenizer::Tokenizer;

use crate::common;
use crate::golden::{CASES, Golden, Layers, own_name, root};

fn collect(device: &Device, model: &Model, golden: &Golden, options: StreamOptions) -> Imatrix {
    let (tokens, seq_len) = (golden.tokens(), golden.seq_len());
    let stream = Stream::new(device, model, &tokens, seq_len, options).unwrap();
    let mut collector = Collector::new(device);
    stream.final_states(model, 0..seq_len, &mut collector, &Silent).unwrap();
    collector.finish("golden", tokens.len() / seq_len, seq_len).unwrap()
}

fn check(device: &Device, cases: &[&str]) {
    for case in cases {
        let (golden, layers) = (Golden::read(case), Layers::read(case));
        let model = golden.open();
        let imatrix = collect(device, &model, &golden, StreamOptions::default());
        assert_eq!(imatrix.entries.len(), layers.layers.len(), "{case}");
        let mut largest = 0f64;
        for (name, layer) in &layers.layers {
            let name = own_name(&model, name);
            let (entry, tokens) = (&imatrix.entries[name], golden.tokens().len() as f64);
            // some experts see a token, but all heads
            let mixture = model.hparams.mixture.filter(|_| name.contains("_exps."));
            let asked = mixture.map_or(entry.counts.len(), |mixture| mixture.routing.used);
            assert_eq!(entry.counts.iter().sum::<f64>(), asked as f64 * tokens, "{case}, {name}");
            // over all tokens, whichever experts saw them
            let squares: Vec<f32> = entry.sum2.iter().map(|sum| (sum / tokens) as f32).collect();
            let distance = layer.input.distance(&squares);
            assert!(distance <= 1e-3, "{case}, {name}: {distance:.1e}");
            largest = largest.max(distance);
        }
        println!("{case:<18} {}: mean squared inputs {largest:.1e}", device.name());
    }
}

#[test]
fn the_collector_gathers_what_transformers_feeds_its_layers() {
    check(&Device::cpu(), &CASES);
    if let Some(device) = common::gpu() {
        check(device, &["tiny-qwen3", "llama-bias", "llama-tied", "qwen3moe"]);
    }
}

#[test]
fn statistics_do_not_depend_on_batches() {
    let golden = Golden::read("tiny-qwen3");
    let (model, device) = (golden.open(), Device::cpu());
    let whole = collect(&device, &model, &golden, StreamOptions::default());
    let options = StreamOptions { batch_tokens: 1, hidden_budget: 0, ..StreamOptions::default() };
    let parts = collect(&device, &model, &golden, options);
    assert_eq!(whole.entries.keys().collect::<Vec<_>>(), parts.entries.keys().collect::<Vec<_>>());
    for (name, entry) in &whole.entries {
        let other = &parts.entries[name];
        let close = |a: &[f64], b: &[f64]| {
            let peak = a.iter().fold(0f64, |peak, a| peak.max(a.abs()));
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * peak)
        };
        assert!(close(&entry.sum2, &other.sum2), "{name}");
        assert!(close(entry.sum.as_ref().unwrap(), other.sum.as_ref().unwrap()), "{name}");
        // Jensen: the mean's square is at most the mean square.
        let tokens = entry.counts[0];
        let within = |(sum, sum2): (&f64, &f64)| (sum / tokens).powi(2) <= sum2 / tokens * (1.0 + 1e-5);
        assert!(entry.sum.as_ref().unwrap().iter().zip(&entry.sum2).all(within), "{name}");
    }
}

/// `short.gguf` holds six entries of the file that llama-imatrix (`-c 128 --process-output`, on the CPU) made of
/// `short.txt` with models/tiny-llama in BF16. It multiplies in BF16 and keeps keys and values in F16.
#[test]
fn llama_imatrix_finds_the_same_statistics() {
    let data = root().join("tests/data/imatrix");
    let theirs = Imatrix::read(&data.join("short.gguf")).unwrap();
    let folder = root().join("models/tiny-llama");
    let (model, tokenizer) = (Model::open(&folder).unwrap(), Tokenizer::from_hf(&folder).unwrap());
    let text = fs::read_to_string(data.join("short.txt")).unwrap();
    let chunks = Chunks::from_text_stream(&text, "short", &tokenizer, 128, None).unwrap();
    let ours = listen(&Device::cpu(), &model, &chunks, "short.txt", StreamOptions::default(), &Silent).unwrap();

    assert_eq!((ours.chunk_count, ours.chunk_size), (theirs.chunk_count, theirs.chunk_size));
    assert_eq!((theirs.entries.len(), &ours.datasets), (6, &theirs.datasets));
    for (name, entry) in &theirs.entries {
        assert_eq!(ours.entries[name].counts, entry.counts, "{name}");
        let (ours, theirs) = (ours.mean2(name).unwrap(), theirs.mean2(name).unwrap());
        let peak = theirs.iter().copied().fold(0.0, f32::max);
        let (mut of_peak, mut of_each) = (0f32, 0f32);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            of_peak = of_peak.max((ours - theirs).abs() / peak);
            of_each = of_each.max((ours - theirs).abs() / theirs);
        }
        println!("{name:<26} {of_peak:.1e} of the largest, {of_each:.1e} of each");
        assert!(of_peak <= 1e-2 && of_each <= 3e-2, "{name}: {of_peak:.1e}, {of_each:.1e}");
    }
}
