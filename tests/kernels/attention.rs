//! Attention forward and backward.

use dq_gpu::device::{Buffer, Device};
use dq_gpu::kernels::attention::{AttentionParams, attention};
use dq_gpu::kernels::attention_backward::attention_backward;

use crate::common::{Random, assert_close, devices, widen};
use crate::{differences, inner};

/// Scores, softmax, mix, one query after the other.
fn reference(q: &[f64], k: &[f64], v: &[f64], sinks: Option<&[f64]>, p: AttentionParams) -> Vec<f64> {
    let (dim, value_dim) = (p.head_dim, p.value_dim);
    let mut out = vec![0.0; p.sequences * p.seq_len * p.heads * value_dim];
    for sequence in 0..p.sequences {
        for query in 0..p.seq_len {
            for head in 0..p.heads {
                let row = (sequence * p.seq_len + query) * p.heads + head;
                let key_row = |key: usize| (sequence * p.seq_len + key) * p.kv_heads + head * p.kv_heads / p.heads;
                let q = &q[row * dim..][..dim];
                let first = query.saturating_sub(p.window.unwrap_or(p.seq_len) - 1);
                let scores: Vec<f64> = (first..=query)
                    .map(|key| f64::from(p.scale) * inner(q, &k[key_row(key) * dim..][..dim]))
                    .map(|score| p.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()))
                    .collect();
                let sink = sinks.map(|sinks| sinks[head]);
                let all = || scores.iter().copied().chain(sink);
                let max = all().fold(f64::MIN, f64::max);
                let total: f64 = all().map(|s| (s - max).exp()).sum();
                for (i, score) in scores.iter().enumerate() {
                    for d in 0..value_dim {
                        out[row * value_dim + d] += (score - max).exp() / total * v[key_row(first + i) * value_dim + d];
                    }
                }
            }
        }
    }
    out
}

fn params(
    sequences: usize,
    seq_len: usize,
    heads: [usize; 2],
    head_dim: usize,
    window: Option<usize>,
) -> AttentionParams {
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (value_dim, [heads, kv_heads]) = (head_dim, heads);
    AttentionParams { sequences, seq_len, heads, kv_heads, head_dim, value_dim, scale, window, softcap: None }
}

/// The same with values of their own width.
fn valued(value_dim: usize, p: AttentionParams) -> AttentionParams {
    AttentionParams { value_dim, ..p }
}

struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
    sinks: Option<Vec<f32>>,
}

/// The same with scores capped at 1.5, which is below most.
fn capped(p: AttentionParams) -> AttentionParams {
    AttentionParams { softcap: Some(1.5), ..p }
}

fn inputs(p: AttentionParams) -> Inputs {
    let mut random = Random::new(1);
    let tokens = p.sequences * p.seq_len;
    Inputs {
        q: random.normals(tokens * p.heads * p.head_dim, 2.0),
        k: random.normals(tokens * p.kv_heads * p.head_dim, 1.0),
        v: random.normals(tokens * p.kv_heads * p.value_dim, 1.0),
        dout: random.normals(tokens * p.heads * p.value_dim, 1.0),
        sinks: None,
    }
}

fn inputs_with_sinks(p: AttentionParams) -> Inputs {
    Inputs { sinks: Some(Random::new(2).normals(p.heads, 2.0)), ..inputs(p) }
}

fn upload(dev: &Device, values: &[f32]) -> Buffer {
    dev.upload("input", values).unwrap()
}

fn run(dev: &Device, x: &Inputs, p: AttentionParams) -> Vec<f32> {
    let (q, k, v) = (upload(dev, &x.q), upload(dev, &x.k), upload(dev, &x.v));
    let out = dev.alloc("out", x.dout.len() * 4).unwrap();
    let sinks = x.sinks.as_ref().map(|sinks| upload(dev, sinks));
    attention(dev, &q, &k, &v, sinks.as_ref(), &out, p).unwrap();
    dev.read(&out).unwrap()
}

fn run_backward(dev: &Device, x: &Inputs, p: AttentionParams) -> [Vec<f32>; 3] {
    let (q, k, v, dout) = (upload(dev, &x.q), upload(dev, &x.k), upload(dev, &x.v), upload(dev, &x.dout));
    // Old contents must not matter.
    let (dq, dk, dv) = (upload(dev, &x.q), upload(dev, &x.k), upload(dev, &x.v));
    let sinks = x.sinks.as_ref().map(|sinks| upload(dev, sinks));
    attention_backward(dev, &q, &k, &v, sinks.as_ref(), &dout, &dq, &dk, &dv, p).unwrap();
    [dev.read(&dq).unwrap(), dev.read(&dk).unwrap(), dev.read(&dv).unwrap()]
}

/// As it is, and with scores capped and sinks.
fn variants(p: AttentionParams) -> [(AttentionParams, Inputs); 4] {
    let both = [p, capped(p)];
    let [plain, sunk] = [inputs, inputs_with_sinks].map(|inputs| both.map(|p| (p, inputs(p))));
    let ([a, b], [c, d]) = (plain, sunk);
    [a, b, c, d]
}

#[test]
fn attention_of_many_shapes() {
    let shapes = [
        params(1, 1, [1, 1], 64, None),
        params(2, 33, [4, 2], 64, None),
        params(1, 50, [2, 2], 80, Some(7)),
        params(3, 40, [3, 1], 128, None),
        params(1, 70, [2, 1], 128, Some(40)),
        params(1, 19, [2, 1], 256, Some(1)),
        params(1, 300, [1, 1], 64, Some(33)),
        params(1, 200, [2, 1], 20, None),
        params(1, 40, [2, 1], 260, Some(30)),
        valued(20, params(2, 33, [4, 2], 64, None)),
        valued(80, params(1, 50, [2, 2], 12, Some(7))),
        valued(264, params(1, 45, [2, 1], 64, None)),
        valued(512, params(2, 35, [3, 1], 576, None)),
        valued(512, params(1, 50, [2, 1], 576, Some(11))),
    ];
    for p in shapes {
        for (p, x) in variants(p) {
            let sinks = x.sinks.as_deref().map(widen);
            let want = reference(&widen(&x.q), &widen(&x.k), &widen(&x.v), sinks.as_deref(), p);
            for dev in devices() {
                assert_close(&format!("{p:?} on {}", dev.name()), &run(&dev, &x, p), &want, 1e-11);
            }
        }
    }
}

#[test]
fn attention_backward_is_the_derivative() {
    let shapes = [
        params(2, 9, [4, 2], 8, None),
        params(1, 21, [2, 1], 12, Some(5)),
        params(1, 37, [1, 1], 4, None),
        valued(4, params(2, 7, [4, 2], 12, None)),
        valued(12, params(1, 19, [2, 1], 4, Some(5))),
    ];
    for p in shapes {
        for (p, x) in variants(p) {
            let (q, k, v, dout) = (widen(&x.q), widen(&x.k), widen(&x.v), widen(&x.dout));
            let sinks = x.sinks.as_deref().map(widen);
            let loss = |q: &[f64], k: &[f64], v: &[f64]| inner(&reference(q, k, v, sinks.as_deref(), p), &dout);
            let want = [
                differences(&q, |q| loss(q, &k, &v)),
                differences(&k, |k| loss(&q, k, &v)),
                differences(&v, |v| loss(&q, &k, v)),
            ];
            for dev in devices() {
                for ((name, want), got) in ["dq", "dk", "dv"].iter().zip(&want).zip(run_backward(&dev, &x, p)) {
                    assert_close(&format!("{name} of {p:?} on {}", dev.name()), &got, want, 1e-9);
                }
            }
        }
    }
}

#[test]
fn attention_backward_agrees_between_devices_on_real_heads() {
    let shapes = [
        params(2, 70, [4, 2], 64, None),
        params(1, 100, [2, 1], 80, Some(20)),
        params(1, 45, [3, 3], 128, None),
        params(1, 35, [2, 1], 256, None),
        params(1, 150, [1, 1], 64, Some(64)),
        params(1, 40, [2, 1], 260, Some(30)),
        valued(48, params(2, 37, [4, 2], 80, None)),
        valued(64, params(1, 40, [2, 1], 264, None)),
        valued(520, params(1, 40, [2, 1], 64, Some(20))),
        valued(512, params(2, 35, [3, 1], 576, None)),
        valued(512, params(1, 50, [2, 1], 576, Some(11))),
    ];
    for p in shapes {
        for (p, x) in variants(p) {
            let want = run_backward(&Device::cpu(), &x, p);
            for dev in devices() {
                for ((name, want), got) in ["dq", "dk", "dv"].iter().zip(&want).zip(run_backward(&dev, &x, p)) {
                    assert_close(&format!("{name} of {p:?} on {}", dev.name()), &got, &widen(want), 1e-10);
                }
            }
        }
    }
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    for dev in devices() {
        let buffer = dev.alloc("buffer", 4096).unwrap();
        let out = dev.alloc("out", 4096).unwrap();
        let attend = |sinks, p| attention(&dev, &buffer, &buffer, &buffer, sinks, &out, p);
        let refused = |p| attend(None, p).is_err();
        assert!(refused(params(1, 4, [3, 2], 8, None)), "heads do not divide");
        assert!(refused(params(1, 4, [2, 2], 8, Some(0))), "empty window");
        assert!(refused(params(9, 64, [2, 2], 8, None)), "too small");
        assert!(refused(valued(512, params(1, 4, [2, 2], 8, None))), "too small for the values");
        assert_eq!(refused(valued(6, params(1, 4, [2, 2], 8, None))), dev.is_gpu(), "values not of quads");
        assert_eq!(refused(valued(8, params(1, 4, [2, 2], 6, None))), dev.is_gpu(), "keys not of quads");
        assert!(refused(AttentionParams { softcap: Some(0.0), ..params(1, 4, [2, 2], 8, None) }), "capped to nothing");
        let one = dev.alloc("one", 4).unwrap();
        assert!(attend(Some(&one), params(1, 4, [2, 2], 8, None)).is_err(), "too few sinks");
    }
}

#[test]
fn scores_that_are_huge_stay_numbers() {
    let p = params(1, 40, [2, 1], 16, None);
    for (p, mut x) in [(p, inputs_with_sinks(p)), (capped(p), inputs_with_sinks(p))] {
        x.q.iter_mut().for_each(|q| *q *= 1e12);
        x.sinks = Some(vec![-1e30, 1e4]);
        for dev in devices() {
            let all = [run(&dev, &x, p)].into_iter().chain(run_backward(&dev, &x, p));
            assert!(all.flatten().all(|value| value.is_finite()), "{p:?} on {}", dev.name());
        }
    }
}
