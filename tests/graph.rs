//! Every operation of a layer: the way back against finite differences of the way forward, on both devices.

mod common;

use std::collections::BTreeSet;
use std::rc::Rc;

use common::{Random, devices};
use dq_gpu::device::{Buffer, Device};
use dq_gpu::graph::ops::{Attend, Gating, NAMES, Rotate, Routing};
use dq_gpu::graph::run::{Batch, Keep};
use dq_gpu::graph::{Arena, Builder, Graph, LayerWeights, NoTap, Stack, Value, WeightUse};
use dq_gpu::kernels::gated_delta::DeltaHeads;
use dq_gpu::kernels::glu::Activation;
use dq_gpu::kernels::norm::NormKind;
use dq_gpu::kernels::rope::RopeStyle;
use dq_gpu::kernels::weight::Weight;
use dq_gpu::quant::GgmlType;

const WIDTH: usize = 48;
const HEAD: usize = 12;
const SEQUENCES: usize = 2;
const SEQ_LEN: usize = 7;
const TOKENS: usize = SEQUENCES * SEQ_LEN;

fn rotate(heads: usize, rot: usize, style: RopeStyle, table: usize) -> Rotate {
    Rotate { heads, head_dim: HEAD, rot, style, table }
}

fn attend(heads: usize, kv_heads: usize, window: Option<usize>) -> Attend {
    Attend { heads, kv_heads, head_dim: HEAD, value_dim: HEAD, scale: 0.4, window, softcap: None }
}

const EXPERTS: usize = 5;
const HIDDEN: usize = 20;

fn routing(used: usize, normalizes: bool) -> Routing {
    let gating = Gating::Softmax;
    Routing { experts: EXPERTS, used, gating, groups: 1, groups_used: 1, normalizes, scale: 1.0 }
}

fn mixture(layer: &mut Builder, routing: Routing) -> Value {
    let scores = layer.linear(Value::INPUT, "router", EXPERTS);
    let shares = layer.router(scores, routing);
    layer.experts(Value::INPUT, shares, ["gates", "ups", "downs"], HIDDEN, Activation::Silu)
}

const LINEAR: DeltaHeads = DeltaHeads { key_heads: 2, value_heads: 4, key_dim: 6, value_dim: 5 };

type Compose = fn(&mut Builder) -> Value;

/// Layers of one operation, or of a few where one alone cannot show what it is to show.
const LAYERS: &[(&str, Compose)] = &[
    ("a norm over rows", |layer| layer.norm(Value::INPUT, "a")),
    ("a norm over heads, behind one over rows", |layer| {
        let normed = layer.norm(Value::INPUT, "a");
        layer.norm_of_groups(normed, "heads", HEAD)
    }),
    ("a layer norm over heads, behind one over rows", |layer| {
        layer.set_norms(NormKind::Layer);
        let normed = layer.norm(Value::INPUT, "a");
        layer.norm_of_groups(normed, "heads", HEAD)
    }),
    ("a product with a bias", |layer| layer.linear(Value::INPUT, "wide", 2 * WIDTH)),
    ("a product onto what it reads", |layer| layer.linear_onto(Value::INPUT, Value::INPUT, "square")),
    ("a sum of a value with itself and another", |layer| {
        let other = layer.norm(Value::INPUT, "a");
        let sum = layer.add(other, other);
        layer.add(Value::INPUT, sum)
    }),
    ("overlapping columns of a product, read again", |layer| {
        let wide = layer.linear(Value::INPUT, "wide", 2 * WIDTH);
        let [a, b] = [5, WIDTH].map(|first| layer.columns(wide, first, WIDTH));
        let again = layer.linear(wide, "back", WIDTH);
        let sum = layer.add(a, b);
        layer.add(sum, again)
    }),
    ("columns of what comes in, beside all of it", |layer| {
        let some = layer.columns(Value::INPUT, 1, WIDTH - 1);
        let last = layer.columns(Value::INPUT, WIDTH - 1, 1);
        let [some, last] = [(some, "some"), (last, "last")].map(|(src, stem)| layer.linear(src, stem, WIDTH));
        let sum = layer.add(some, last);
        layer.add(Value::INPUT, sum)
    }),
    ("rope by neighbours", |layer| layer.rope(Value::INPUT, rotate(4, HEAD, RopeStyle::Norm, 0))),
    ("rope by halves, of another table", |layer| layer.rope(Value::INPUT, rotate(4, HEAD, RopeStyle::Neox, 1))),
    ("rope of a part of each head", |layer| layer.rope(Value::INPUT, rotate(4, HEAD - 4, RopeStyle::Neox, 2))),
    ("rope of a value that is read again", |layer| {
        let rotated = layer.rope(Value::INPUT, rotate(4, HEAD, RopeStyle::Neox, 0));
        layer.add(rotated, Value::INPUT)
    }),
    ("attention with shared heads", |layer| {
        let [k, v] = ["k", "v"].map(|stem| layer.linear(Value::INPUT, stem, 2 * HEAD));
        layer.attention([Value::INPUT, k, v], attend(4, 2, None), None)
    }),
    ("attention with scores capped, and sinks", |layer| {
        let [k, v] = ["k", "v"].map(|stem| layer.linear(Value::INPUT, stem, 2 * HEAD));
        let attend = Attend { softcap: Some(1.2), ..attend(4, 2, None) };
        layer.attention([Value::INPUT, k, v], attend, Some("sinks"))
    }),
    ("attention within a window, values the keys", |layer| {
        let k = layer.linear(Value::INPUT, "k", 2 * HEAD);
        layer.attention([Value::INPUT, k, k], attend(4, 2, Some(3)), None)
    }),
    ("attention to values narrower than the keys", |layer| {
        let k = layer.linear(Value::INPUT, "k", 2 * HEAD);
        let v = layer.linear(Value::INPUT, "narrow", 2 * (HEAD - 4));
        let attend = Attend { value_dim: HEAD - 4, ..attend(4, 2, None) };
        let mixed = layer.attention([Value::INPUT, k, v], attend, None);
        layer.linear(mixed, "out", WIDTH)
    }),
    ("SiLU", |layer| {
        let up = layer.linear(Value::INPUT, "square", WIDTH);
        layer.gated(Value::INPUT, up, Activation::Silu)
    }),
    ("what gpt-oss has", |layer| {
        let up = layer.linear(Value::INPUT, "square", WIDTH);
        layer.gated(Value::INPUT, up, Activation::ClampedSwiglu)
    }),
    ("GELU, of itself", |layer| layer.gated(Value::INPUT, Value::INPUT, Activation::GeluTanh)),
    ("a gate for each column", |layer| {
        let gate = layer.linear(Value::INPUT, "square", WIDTH);
        layer.sigmoid_gate(Value::INPUT, gate)
    }),
    ("a gate for all columns, and each its own", |layer| {
        let gate = layer.linear(Value::INPUT, "single", 1);
        let gated = layer.sigmoid_gate(Value::INPUT, gate);
        layer.sigmoid_gate(gated, gated)
    }),
    ("shares of all experts", |layer| {
        let scores = layer.linear(Value::INPUT, "router", EXPERTS);
        layer.router(scores, routing(EXPERTS, false))
    }),
    ("experts with their shares among all", |layer| mixture(layer, routing(2, false))),
    ("experts with shares of their own", |layer| mixture(layer, routing(2, true))),
    ("experts by themselves, scaled", |layer| {
        mixture(layer, Routing { gating: Gating::Sigmoid, scale: 2.5, ..routing(2, false) })
    }),
    ("experts by themselves, with biases, one of which chooses", |layer| {
        let scores = layer.linear(Value::INPUT, "router", EXPERTS);
        let routing = Routing { gating: Gating::Sigmoid, scale: 2.5, ..routing(3, true) };
        let shares = layer.router(scores, routing);
        layer.experts(Value::INPUT, shares, ["gates_b", "ups_b", "downs_b"], HIDDEN, Activation::ClampedSwiglu)
    }),
    ("two parts of each head, each times its own matrix, in another order", |layer| {
        let first = layer.columns_of_groups(Value::INPUT, HEAD, 0, 5);
        let rest = layer.columns_of_groups(Value::INPUT, HEAD, 5, HEAD - 5);
        let turned = layer.linear_of_heads(rest, "stack", WIDTH / HEAD, 8);
        let both = layer.concat(turned, first, WIDTH / HEAD);
        layer.concat(both, first, 1)
    }),
    ("multiples of a product, one of which is read again", |layer| {
        let product = layer.linear(Value::INPUT, "square", WIDTH);
        let half = layer.scale(product, 0.5);
        let turned = layer.scale(half, -3.0);
        let sum = layer.add(half, turned);
        layer.add(Value::INPUT, sum)
    }),
    ("columns of each head", |layer| {
        let some = layer.columns_of_groups(Value::INPUT, HEAD, 3, 5);
        layer.linear(some, "fifth", WIDTH)
    }),
    ("heads of length 1", |layer| layer.unit_groups(Value::INPUT, HEAD)),
    ("a short convolution, read with what it reads", |layer| {
        let mixed = layer.short_conv(Value::INPUT, "conv", 4);
        layer.add(Value::INPUT, mixed)
    }),
    ("a linear attention", |layer| {
        let wide = layer.linear(Value::INPUT, "wide", 2 * WIDTH);
        let [qk, v] = [(0, LINEAR.qk_width()), (24, LINEAR.value_width())]
            .map(|(first, count)| layer.columns(wide, first, count));
        let qk = layer.unit_groups(qk, LINEAR.key_dim);
        let gates = [44, 48].map(|first| layer.columns(wide, first, LINEAR.value_heads));
        let gates = layer.delta_gates(gates, ["rate", "shift.bias"]);
        layer.gated_delta([qk, v, gates], LINEAR)
    }),
    ("a norm behind a product, added", |layer| {
        let normed = layer.norm(Value::INPUT, "a");
        let product = layer.linear(normed, "square", WIDTH);
        let normed = layer.norm(product, "b");
        layer.add(Value::INPUT, normed)
    }),
];

fn shape(stem: &str) -> (usize, usize) {
    match stem {
        "wide" => (2 * WIDTH, WIDTH),
        "square" => (WIDTH, WIDTH),
        "back" => (WIDTH, 2 * WIDTH),
        "some" => (WIDTH, WIDTH - 1),
        "last" => (WIDTH, 1),
        "single" => (1, WIDTH),
        "fifth" => (WIDTH, WIDTH / HEAD * 5),
        "conv" => (1, 4 * WIDTH),
        "rate" => (1, LINEAR.value_heads),
        "shift" => (LINEAR.value_heads, 1),
        "k" | "v" => (2 * HEAD, WIDTH),
        "narrow" => (2 * (HEAD - 4), WIDTH),
        "out" => (WIDTH, 4 * (HEAD - 4)),
        "heads" => (1, HEAD),
        "sinks" => (1, WIDTH / HEAD),
        "router" => (EXPERTS, WIDTH),
        "gates" | "ups" | "gates_b" | "ups_b" => (EXPERTS * HIDDEN, WIDTH),
        "downs" | "downs_b" => (EXPERTS * WIDTH, HIDDEN),
        // for each head
        "stack" => (WIDTH / HEAD * 8, HEAD - 5),
        "exp_probs_b" => (EXPERTS, 1),
        _ => (1, WIDTH),
    }
}

fn weights(device: &Device, layer: &Graph, random: &mut Random) -> LayerWeights<'static> {
    let mut loaded = LayerWeights::default();
    for tensor in layer.weights() {
        let (WeightUse::Matrix(name) | WeightUse::Stack(name) | WeightUse::Vector(name)) = tensor;
        let (rows, cols) = shape(name.split('.').nth(2).unwrap());
        match tensor {
            WeightUse::Stack(_) => {
                let values = random.normals(rows * cols, 0.15);
                let stack = Weight::upload(device, name, GgmlType::F32, rows, cols, bytemuck::cast_slice(&values));
                loaded.stacks.insert(name.to_owned(), Stack::Whole(Rc::new(stack.unwrap())));
            }
            WeightUse::Matrix(_) => {
                let mut values = random.normals(rows * cols, 0.15);
                if name.ends_with(".router.weight") {
                    // scores are the first columns
                    values = (0..rows * cols).map(|at| f32::from(u8::from(at / cols == at % cols))).collect();
                }
                let bytes = bytemuck::cast_slice(&values);
                let weight = Weight::upload(device, name, GgmlType::F32, rows, cols, bytes).unwrap();
                loaded.matrices.insert(name.to_owned(), weight);
            }
            WeightUse::Vector(_) => {
                // a bias has an entry for each row
                let len = if name.ends_with(".bias") { rows } else { cols };
                let mut values = random.normals(len, 1.0);
                if name.ends_with(".rate") {
                    values.iter_mut().for_each(|rate| *rate = -rate.abs());
                }
                loaded.vectors.insert(name.to_owned(), device.upload(name, &values).unwrap());
            }
        }
    }
    loaded
}

/// A layer on a device, with all that it needs.
struct Setup<'a> {
    device: &'a Device,
    layer: Graph,
    weights: LayerWeights<'static>,
    arena: Arena,
    tables: Vec<Buffer>,
}

impl Setup<'_> {
    fn batch(&self) -> Batch<'_> {
        let Setup { device, arena, tables, .. } = self;
        Batch { device, arena, rope_tables: tables, sequences: SEQUENCES, first_sequence: 0, seq_len: SEQ_LEN }
    }

    fn input(&self, x: &[f32]) -> Buffer {
        self.device.upload("x", x).unwrap()
    }

    fn output(&self, x: &[f32], keep: Keep) -> Vec<f32> {
        let values = self.layer.run(self.batch(), &self.weights, self.input(x), keep, &mut NoTap).unwrap();
        let output = self.device.read::<f32>(values.get(self.layer.output())).unwrap();
        self.arena.reset();
        output
    }

    fn gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let batch = self.batch();
        let values = self.layer.run(batch, &self.weights, self.input(x), Keep::All, &mut NoTap).unwrap();
        let dy = self.device.upload("dy", dy).unwrap();
        let dx = self.layer.back(batch, &self.weights, &values, true, dy, &mut NoTap).unwrap();
        let dx = self.device.read::<f32>(&dx).unwrap();
        self.arena.reset();
        dx
    }
}

fn rope_tables(device: &Device) -> Vec<Buffer> {
    let table = |base: f64, rot: usize| -> Vec<f32> {
        let angle = move |position: usize, pair: usize| position as f64 / base.powf(pair as f64 / (rot / 2) as f64);
        let pairs = (0..SEQ_LEN).flat_map(|position| (0..rot / 2).map(move |pair| angle(position, pair)));
        pairs.flat_map(|angle| [angle.cos() as f32, angle.sin() as f32]).collect()
    };
    [table(1e4, HEAD), table(100.0, HEAD), table(1e4, HEAD - 4)].map(|t| device.upload("table", &t).unwrap()).into()
}

fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let mut shown = BTreeSet::new();
    for (what, compose) in LAYERS {
        let mut of_devices: Vec<Vec<f32>> = Vec::new();
        for device in devices() {
            let mut random = Random::new(11);
            let has_tensor = |name: &str| name == "blk.0.wide.bias" || name.ends_with("_b.bias");
            let mut builder = Builder::new(0, WIDTH, 1e-5, &has_tensor);
            let output = compose(&mut builder);
            let layer = builder.finish(output);
            shown.extend(layer.operations());
            let weights = weights(&device, &layer, &mut random);
            let (arena, tables) = (Arena::new(&device), rope_tables(&device));
            let setup = Setup { device: &device, layer, weights, arena, tables };
            let mut x = random.normals(TOKENS * WIDTH, 1.0);
            for (token, row) in x.chunks_exact_mut(WIDTH).enumerate() {
                // far apart, so that a step asks the same experts
                (0..EXPERTS).for_each(|expert| row[expert] = ((3 * expert + token * token) % EXPERTS) as f32 - 2.0);
            }
            let y = setup.output(&x, Keep::Unread);
            assert_eq!(y, setup.output(&x, Keep::All), "{what}: what is kept changes nothing");
            let dy = random.normals(y.len(), 1.0);
            let dx = setup.gradient(&x, &dy);
            let size = inner(&dx, &dx).sqrt();
            for _ in 0..3 {
                const STEP: f32 = 1e-2;
                let direction = random.normals(x.len(), 1.0);
                let along = |by: f32| {
                    let moved: Vec<f32> = x.iter().zip(&direction).map(|(x, d)| x + by * d).collect();
                    inner(&setup.output(&moved, Keep::Unread), &dy)
                };
                // of fourth order
                let near = (along(STEP) - along(-STEP)) / (2.0 * f64::from(STEP));
                let far = (along(2.0 * STEP) - along(-2.0 * STEP)) / (4.0 * f64::from(STEP));
                let (found, want) = (inner(&dx, &direction), (4.0 * near - far) / 3.0);
                assert!((found - want).abs() < 2e-3 * size, "{what} on {}: {found} {want}", device.name());
            }
            of_devices.push(dx);
        }
        for dx in &of_devices[1..] {
            let off: Vec<f32> = dx.iter().zip(&of_devices[0]).map(|(a, b)| a - b).collect();
            assert!(inner(&off, &off) < 1e-10 * inner(dx, dx), "{what}: the devices disagree");
        }
    }
    assert_eq!(shown, NAMES.into_iter().collect(), "every operation is shown");
}
