//! The reverse sweep against transformers' gradients, finite differences and measured divergences.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use dq_gpu::device::{Buffer, Device};
use dq_gpu::forward::reverse::reverse_sweep;
use dq_gpu::forward::weights::WeightSource;
use dq_gpu::forward::{Side, Stream, StreamOptions, diverge};
use dq_gpu::graph::{LinearInput, Matrix, Tap};
use dq_gpu::imatrix::Imatrix;
use dq_gpu::imatrix::collect::Collector;
use dq_gpu::progress::Silent;
use dq_gpu::quant::GgmlType;
use dq_gpu::sensitivity::{Sensitivities, SweepOptions, reverse_sweep_factors};
use dq_gpu::source::{Model, Tensor};

use crate::common::{self, Random};
use crate::golden::{CASES, Golden, Layers, log_sum_exp, logits_of, own_name};

/// A model with some tensors replaced.
struct Overlay<'a> {
    base: &'a Model,
    replaced: HashMap<String, (GgmlType, Vec<u8>)>,
}

impl WeightSource for Overlay<'_> {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        match self.replaced.get(&tensor.name) {
            Some((ty, bytes)) => Ok((*ty, Cow::Borrowed(bytes))),
            None => self.base.read(tensor),
        }
    }
}

/// Reads everything that passes by.
struct Recorder<'a> {
    device: &'a Device,
    output: String,
    tokens: usize,
    /// Sums of squares by column and by row.
    inputs: BTreeMap<String, Vec<f64>>,
    gradients: BTreeMap<String, Vec<f64>>,
    /// Where the gradient at the logits is negative: the label. Only right if all tokens are in one batch.
    labels: Vec<Option<u32>>,
    /// Sums by token id.
    embedding: HashMap<u32, Vec<f64>>,
}

impl<'a> Recorder<'a> {
    fn new(device: &'a Device, model: &Model, tokens: usize) -> Self {
        Recorder {
            device,
            output: model.output_tensor().to_string(),
            tokens,
            inputs: BTreeMap::new(),
            gradients: BTreeMap::new(),
            labels: vec![None; tokens],
            embedding: HashMap::new(),
        }
    }

    fn means(&self, sums: &[f64]) -> Vec<f32> {
        sums.iter().map(|sum| (sum / self.tokens as f64) as f32).collect()
    }
}

fn add_squares(sums: &mut Vec<f64>, values: &[f32], width: usize, first: usize) {
    sums.resize(sums.len().max(first + width), 0.0);
    for row in values.chunks_exact(width) {
        sums[first..].iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value).powi(2));
    }
}

impl Tap for Recorder<'_> {
    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        let x = self.device.read_range::<f32>(input.x, 0, input.tokens() * input.width)?;
        for Matrix { tensor, index } in input.matrices {
            add_squares(self.inputs.entry(tensor.clone()).or_default(), &x, input.width, index * input.width);
        }
        Ok(())
    }

    fn linear_gradient(
        &mut self,
        matrix: &Matrix,
        dy: &Buffer,
        tokens: usize,
        rows: usize,
        first: usize,
    ) -> Result<()> {
        let dy = self.device.read_range::<f32>(dy, 0, tokens * rows)?;
        if matrix.tensor == self.output {
            for (label, dy) in self.labels.iter_mut().zip(dy.chunks_exact(rows)) {
                *label = label.or(dy.iter().position(|dy| *dy < 0.0).map(|at| (first + at) as u32));
            }
        }
        let first = matrix.index * rows + first;
        add_squares(self.gradients.entry(matrix.tensor.clone()).or_default(), &dy, rows, first);
        Ok(())
    }

    fn embedding_gradient(&mut self, ids: &[u32], dx: &Buffer, width: usize) -> Result<()> {
        let dx = self.device.read_range::<f32>(dx, 0, ids.len() * width)?;
        for (id, dx) in ids.iter().zip(dx.chunks_exact(width)) {
            let sums = self.embedding.entry(*id).or_insert_with(|| vec![0.0; width]);
            sums.iter_mut().zip(dx).for_each(|(sum, dx)| *sum += f64::from(*dx));
        }
        Ok(())
    }
}

/// For each position the middle of its label's interval of the cumulative distribution.
fn forcing(logits: &[f32], labels: &[u32], vocabulary: usize) -> Vec<f32> {
    let rows = logits.chunks_exact(vocabulary).zip(labels);
    rows.map(|(logits, label)| {
        let lse = log_sum_exp(logits);
        let p = |logit: &f32| (f64::from(*logit) - lse).exp();
        let label = *label as usize;
        let before: f64 = logits[..label].iter().map(p).sum();
        (before + p(&logits[label]) / 2.0) as f32
    })
    .collect()
}

/// One sweep over the tokens of a case, with its labels.
fn sweep<'a>(device: &'a Device, golden: &Golden, labels: &[u32], options: StreamOptions) -> Recorder<'a> {
    let (model, tokens) = (golden.open(), golden.tokens());
    let logits = logits_of(device, &model, &model, &tokens, golden.seq_len(), StreamOptions::default());
    let uniform = forcing(&logits, labels, model.hparams.n_vocab);
    let stream = Stream::new(device, &model, &tokens, golden.seq_len(), options).unwrap();
    let mut recorder = Recorder::new(device, &model, tokens.len());
    reverse_sweep(&stream, &model, &|position| uniform[position], &mut recorder, &Silent).unwrap();
    recorder
}

fn check(device: &Device, cases: &[&str], bound: f64) {
    for case in cases {
        let (golden, layers) = (Golden::read(case), Layers::read(case));
        let labels = layers.labels.concat();
        let seen = sweep(device, &golden, &labels, StreamOptions::default());
        let drawn: Vec<u32> = seen.labels.iter().map(|label| label.expect("a label")).collect();
        let wrong = drawn.iter().zip(&labels).filter(|(drawn, label)| drawn != label).count();
        assert_eq!(wrong, 0, "{case}: labels that were not drawn");

        let model = golden.open();
        assert_eq!(seen.gradients.len(), layers.layers.len(), "{case}");
        let (mut inputs, mut gradients) = (0f64, 0f64);
        for (name, layer) in &layers.layers {
            let name = own_name(&model, name);
            // The sweep shows the inputs inside of the layers again; the head's input is not among them.
            if let Some(sums) = seen.inputs.get(name) {
                inputs = inputs.max(layer.input.distance(&seen.means(sums)));
            } else {
                assert_eq!(name, model.output_tensor());
            }
            let distance = layer.gradient.distance(&seen.means(&seen.gradients[name]));
            assert!(distance <= bound, "{case}, {name}: {distance:.1e}");
            gradients = gradients.max(distance);
        }
        println!("{case:<18} {}: mean squares of inputs {inputs:.1e}, gradients {gradients:.1e}", device.name());
        assert!(inputs <= bound, "{case}: {inputs:.1e}");
    }
}

#[test]
fn the_cpu_finds_the_gradients_of_transformers() {
    check(&Device::cpu(), &CASES, 2e-4);
}

#[test]
fn a_gpu_finds_the_gradients_of_transformers() {
    let Some(device) = common::gpu() else { return };
    check(device, &["tiny-qwen3", "llama-bias", "llama-tied", "mistral-window", "gemma3", "qwen3moe"], 2e-4);
}

#[test]
fn gradients_do_not_depend_on_batches_and_tiles() {
    let (golden, layers) = (Golden::read("llama-bias"), Layers::read("llama-bias"));
    let labels = layers.labels.concat();
    for device in common::devices() {
        let usual = sweep(&device, &golden, &labels, StreamOptions::default());
        let options = StreamOptions {
            batch_tokens: 1,
            hidden_budget: 0,
            logits_tile_bytes: 48 * 4 * 37,
            ..StreamOptions::default()
        };
        let parts = sweep(&device, &golden, &labels, options);
        for (name, sums) in &usual.gradients {
            let peak = sums.iter().copied().fold(0.0, f64::max);
            let close = sums.iter().zip(&parts.gradients[name]).all(|(a, b)| (a - b).abs() <= 1e-4 * peak);
            assert!(close && sums.len() == parts.gradients[name].len(), "{name} on {}", device.name());
        }
    }
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Also the loss itself against transformers.
#[test]
fn the_gradient_at_the_embedding_is_that_of_finite_differences() {
    let (golden, layers, device) = (Golden::read("llama-f32"), Layers::read("llama-f32"), Device::cpu());
    let (model, tokens, labels) = (golden.open(), golden.tokens(), layers.labels.concat());
    let seen = sweep(&device, &golden, &labels, StreamOptions::default());
    let table = model.tensor("token_embd.weight").unwrap();
    let values = model.f32_rows(table, 0..table.rows).unwrap();
    let loss = |values: &[f32]| -> f64 {
        let replaced = HashMap::from([(table.name.clone(), (GgmlType::F32, f32_bytes(values)))]);
        let weights = Overlay { base: &model, replaced };
        let logits = logits_of(&device, &model, &weights, &tokens, golden.seq_len(), StreamOptions::default());
        let rows = logits.chunks_exact(model.hparams.n_vocab).zip(&labels);
        rows.map(|(row, label)| log_sum_exp(row) - f64::from(row[*label as usize])).sum()
    };
    assert!((loss(&values) - layers.loss).abs() <= 1e-6 * layers.loss);

    let mut random = Random::new(1);
    for id in [tokens[0], tokens[17], tokens[60], tokens[95]] {
        // Along the gradient's signs the derivative is large; the noise of f32 is not.
        let gradient = &seen.embedding[&id];
        let direction: Vec<f64> = gradient.iter().map(|g| g.signum() * (0.5 + random.uniform())).collect();
        let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let step = 2e-3;
        let moved = |step: f64| {
            let mut values = values.clone();
            let row = &mut values[id as usize * table.cols..][..table.cols];
            row.iter_mut().zip(&direction).for_each(|(value, d)| *value += (step * d) as f32);
            loss(&values)
        };
        let found = (moved(step) - moved(-step)) / (2.0 * step);
        println!("token {id}: {found:.4} by differences, {expected:.4} by the sweep");
        assert!((found - expected).abs() <= 5e-3 * expected.abs());
    }
}

/// 1024 tokens of the vocabulary of the small models.
fn random_tokens() -> Vec<u32> {
    let mut random = Random::new(7);
    (0..1024).map(|_| (random.next_u64() % 320) as u32).collect()
}

fn sense(stream: &Stream, seed: u64) -> (Imatrix, Sensitivities) {
    let mut collector = Collector::new(stream.device);
    stream.final_states(stream.model, 0..32, &mut collector, &Silent).unwrap();
    let imatrix = collector.finish("random", 32, 32).unwrap();
    let counts = vec![1; 320];
    let factors = reverse_sweep_factors(stream, &imatrix, &counts, SweepOptions { seed }, &Silent).unwrap();
    (imatrix, factors)
}

/// E[(p_r - y_r)^2] = p_r (1 - p_r) if y is drawn from p.
#[test]
fn labels_follow_the_model_s_distribution() {
    let golden = Golden::read("llama-f32");
    let (model, device, tokens) = (golden.open(), Device::cpu(), random_tokens());
    let stream = Stream::new(&device, &model, &tokens, 32, StreamOptions::default()).unwrap();
    let logits = stream.logits(&model, 0..32, &Silent).unwrap();
    let (seeds, count) = (16, tokens.len() as f64);
    let (mut expected, mut variance) = (vec![0f64; 320], vec![0f64; 320]);
    for row in logits.chunks_exact(320) {
        let lse = log_sum_exp(row);
        for (id, logit) in row.iter().enumerate() {
            let p = (f64::from(*logit) - lse).exp();
            expected[id] += p * (1.0 - p) / count;
            variance[id] += p * (1.0 - p) * (1.0 - 2.0 * p).powi(2) / (count * count * seeds as f64);
        }
    }
    let mut found = vec![0f64; 320];
    for seed in 0..seeds {
        let (imatrix, sensitivities) = sense(&stream, seed);
        let factors = &sensitivities.factors["output.weight"];
        assert_eq!((factors.len(), &factors[0].cols), (1, &imatrix.mean2("output.weight").unwrap()));
        found.iter_mut().zip(&factors[0].rows).for_each(|(sum, row)| *sum += f64::from(*row) / seeds as f64);
    }
    let (all, wanted) = (found.iter().sum::<f64>(), expected.iter().sum::<f64>());
    println!("sum of E[(p - y)^2]: {all:.5}, expected {wanted:.5}");
    assert!((all / wanted - 1.0).abs() <= 0.01);
    // A mean of 320 squared normal numbers: 1 +- 0.08.
    let rows = found.iter().zip(&expected).zip(&variance);
    let spread = rows.map(|((found, expected), variance)| (found - expected).powi(2) / variance).sum::<f64>() / 320.0;
    println!("squared deviations over their variance: {spread:.3}");
    assert!((0.7..1.3).contains(&spread), "{spread}");
}

/// Small random errors in one tensor cost about what its factors say.
#[test]
fn predicted_nats_are_measured_nats() {
    let device = Device::cpu();
    for case in ["llama-sharded", "llama-tied"] {
        let model = Golden::read(case).open();
        let tokens = random_tokens();
        let stream = Stream::new(&device, &model, &tokens, 32, StreamOptions::default()).unwrap();
        let (_, sensitivities) = sense(&stream, 3);
        let base = Side { stream: &stream, weights: &model }.run(0..31, "", &Silent).unwrap();
        let names = model.tensors.iter().filter(|tensor| tensor.rows > 1).map(|tensor| tensor.name.clone());
        for (n, name) in names.enumerate() {
            let tensor = model.tensor(&name).unwrap();
            let mut values = model.f32_rows(tensor, 0..tensor.rows).unwrap();
            let rms = (values.iter().map(|w| w * w).sum::<f32>() / values.len() as f32).sqrt();
            let errors = Random::new(n as u64).normals(values.len(), 0.01 * rms);
            values.iter_mut().zip(&errors).for_each(|(value, error)| *value += error);
            let predicted: f64 = sensitivities.factors[&name]
                .iter()
                .map(|factor| {
                    let rows = errors.chunks_exact(tensor.cols);
                    factor.nats(
                        0..tensor.rows,
                        rows.map(|row| row.iter().zip(&factor.cols).map(|(e, h)| e * e * h).sum()),
                    )
                })
                .sum();

            let weights = Overlay {
                base: &model,
                replaced: HashMap::from([(name.clone(), (GgmlType::F32, f32_bytes(&values)))]),
            };
            let quant = Side { stream: &stream, weights: &weights }.run(0..31, "", &Silent).unwrap();
            let found = diverge(&base, &quant, 0..31, &Silent).unwrap();
            let measured = found.tokens.iter().map(|token| token.kld).sum::<f64>() / found.tokens.len() as f64;
            println!(
                "{case} {name:<26} predicted {predicted:.3e}, measured {measured:.3e}, {:.2}",
                predicted / measured
            );
            assert!((0.6..1.6).contains(&(predicted / measured)), "{case}, {name}: {predicted:.3e} {measured:.3e}");
        }
    }
}
