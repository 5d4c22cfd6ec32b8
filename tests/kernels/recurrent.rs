//! Short convolutions, and linear attention by the gated delta rule with its gates.

use dq_gpu::device::{Buffer, Device};
use dq_gpu::kernels::delta_gates::{GateInputs, delta_gates};
use dq_gpu::kernels::delta_gates_backward::delta_gates_backward;
use dq_gpu::kernels::gated_delta::{DeltaHeads, DeltaShape, gated_delta};
use dq_gpu::kernels::gated_delta_backward::gated_delta_backward;
use dq_gpu::kernels::short_conv::{ConvShape, short_conv};
use dq_gpu::kernels::short_conv_backward::short_conv_backward;

use crate::common::{Random, assert_close, devices, widen};
use crate::{differences, inner};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn convolved(x: &[f64], weight: &[f64], shape: ConvShape) -> Vec<f64> {
    let ConvShape { seq_len, channels, taps, .. } = shape;
    let sum = |at: usize| -> f64 {
        let (row, channel) = (at / channels, at % channels);
        let seen = (0..taps).filter(|back| *back <= row % seq_len);
        seen.map(|back| weight[channel * taps + taps - 1 - back] * x[at - back * channels]).sum()
    };
    (0..x.len()).map(|at| sum(at) * sigmoid(sum(at))).collect()
}

#[test]
fn short_convolutions_and_their_derivative() {
    for (sequences, seq_len, channels, taps) in [(3, 11, 37, 4), (1, 2, 5, 4), (2, 6, 300, 2), (4, 1, 9, 3)] {
        let shape = ConvShape { sequences, seq_len, channels, taps };
        let mut random = Random::new(21);
        let len = sequences * seq_len * channels;
        let (x, dy, weight) =
            (random.normals(len, 1.5), random.normals(len, 1.0), random.normals(channels * taps, 1.0));
        let (x64, dy64, weight64) = (widen(&x), widen(&dy), widen(&weight));
        let want = convolved(&x64, &weight64, shape);
        // a channel at a time, and not all of many
        let mut gradient = vec![0.0; len];
        for channel in 0..channels.min(40) {
            let column: Vec<f64> = x64.iter().skip(channel).step_by(channels).copied().collect();
            let weight = &weight64[channel * taps..][..taps];
            let dy: Vec<f64> = dy64.iter().skip(channel).step_by(channels).copied().collect();
            let alone = ConvShape { channels: 1, ..shape };
            let of_column = differences(&column, |x| inner(&convolved(x, weight, alone), &dy));
            of_column.into_iter().enumerate().for_each(|(row, value)| gradient[row * channels + channel] = value);
        }
        for dev in devices() {
            let [xb, wb, dyb] = [&x, &weight, &dy].map(|values| dev.upload("input", values).unwrap());
            // old contents must not matter
            let [y, dx] = [&dy, &dy].map(|values| dev.upload("output", values).unwrap());
            short_conv(&dev, &xb, &wb, &y, shape).unwrap();
            short_conv_backward(&dev, &xb, &wb, &dyb, &dx, shape).unwrap();
            assert_close(&format!("{shape:?} on {}", dev.name()), &dev.read(&y).unwrap(), &want, 1e-12);
            let dx = dev.read::<f32>(&dx).unwrap();
            let (found, gradient): (Vec<f32>, Vec<f64>) =
                dx.iter().zip(&gradient).enumerate().filter(|(at, _)| at % channels < 40).map(|(_, pair)| pair).unzip();
            assert_close(&format!("dx of {shape:?} on {}", dev.name()), &found, &gradient, 1e-10);
            let larger = ConvShape { seq_len: seq_len + 1, ..shape };
            assert!(short_conv(&dev, &xb, &wb, &y, larger).is_err(), "too small");
        }
    }
}

/// Of decays and steps, for a head in each column.
fn gates_of(alpha: &[f64], beta: &[f64], [rate, shift]: [&[f64]; 2]) -> Vec<f64> {
    let heads = rate.len();
    let rows = alpha.chunks(heads).zip(beta.chunks(heads));
    rows.flat_map(|(alpha, beta)| {
        let decay = |head: usize| rate[head] * (alpha[head] + shift[head]).exp().ln_1p();
        let decays: Vec<f64> = (0..heads).map(decay).collect();
        decays.into_iter().chain(beta.iter().map(|beta| sigmoid(*beta))).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn gates_of_the_delta_rule_and_their_derivatives() {
    for (tokens, heads) in [(70, 5), (3, 32), (1, 1)] {
        let mut random = Random::new(22);
        let [mut alpha, beta] = [4.0, 2.0].map(|size| random.normals(tokens * heads, size));
        alpha[0] = 60.0;
        let dgates = random.normals(2 * tokens * heads, 1.0);
        let rate: Vec<f32> = random.normals(heads, 1.0).iter().map(|rate| -rate.abs() - 0.1).collect();
        let shift = random.normals(heads, 1.0);
        let (alpha64, beta64, dgates64) = (widen(&alpha), widen(&beta), widen(&dgates));
        let (rate64, shift64) = (widen(&rate), widen(&shift));
        let gates = |alpha: &[f64], beta: &[f64]| gates_of(alpha, beta, [&rate64, &shift64]);
        let want = [
            gates(&alpha64, &beta64),
            differences(&alpha64, |alpha| inner(&gates(alpha, &beta64), &dgates64)),
            differences(&beta64, |beta| inner(&gates(&alpha64, beta), &dgates64)),
        ];
        for dev in devices() {
            let [alpha, beta, rate, shift, dgates] =
                [&alpha, &beta, &rate, &shift, &dgates].map(|values| dev.upload("input", values).unwrap());
            let [dalpha, dbeta] = ["dalpha", "dbeta"].map(|name| dev.alloc(name, tokens * heads * 4).unwrap());
            let out = dev.alloc("gates", 2 * tokens * heads * 4).unwrap();
            let inputs = GateInputs { alpha: &alpha, beta: &beta, rate: &rate, shift: &shift, tokens, heads };
            delta_gates(&dev, inputs, &out).unwrap();
            delta_gates_backward(&dev, inputs, &dgates, [&dalpha, &dbeta]).unwrap();
            for ((name, found), want) in
                [("gates", &out), ("dalpha", &dalpha), ("dbeta", &dbeta)].into_iter().zip(&want)
            {
                let what = format!("{name} of {tokens} tokens, {heads} heads on {}", dev.name());
                assert_close(&what, &dev.read(found).unwrap(), want, 1e-10);
            }
            assert!(delta_gates(&dev, GateInputs { tokens: tokens + 1, ..inputs }, &out).is_err(), "too small");
        }
    }
}

fn shape(sequences: usize, seq_len: usize, [key_heads, value_heads]: [usize; 2], dims: [usize; 2]) -> DeltaShape {
    let heads = DeltaHeads { key_heads, value_heads, key_dim: dims[0], value_dim: dims[1] };
    DeltaShape { sequences, seq_len, heads }
}

/// One token after the other.
fn reference(qk: &[f64], v: &[f64], gates: &[f64], shape: DeltaShape) -> Vec<f64> {
    let DeltaShape { sequences, seq_len, heads } = shape;
    let DeltaHeads { key_heads, value_heads, key_dim, value_dim } = heads;
    let mut out = vec![0.0; v.len()];
    for (sequence, head) in (0..sequences).flat_map(|s| (0..value_heads).map(move |head| (s, head))) {
        let mut state = vec![0.0; key_dim * value_dim];
        for token in sequence * seq_len..(sequence + 1) * seq_len {
            let query = 2 * token * key_heads * key_dim + head * key_heads / value_heads * key_dim;
            let (q, k) = (&qk[query..][..key_dim], &qk[query + key_heads * key_dim..][..key_dim]);
            let at = (token * value_heads + head) * value_dim;
            let decay = gates[2 * token * value_heads + head].exp();
            let step = gates[(2 * token + 1) * value_heads + head];
            state.iter_mut().for_each(|state| *state *= decay);
            for j in 0..value_dim {
                let along: f64 = (0..key_dim).map(|i| k[i] * state[i * value_dim + j]).sum();
                let delta = step * (v[at + j] - along);
                (0..key_dim).for_each(|i| state[i * value_dim + j] += k[i] * delta);
                let read: f64 = (0..key_dim).map(|i| q[i] * state[i * value_dim + j]).sum();
                out[at + j] = read / (key_dim as f64).sqrt();
            }
        }
    }
    out
}

struct Inputs {
    qk: Vec<f32>,
    v: Vec<f32>,
    gates: Vec<f32>,
    dout: Vec<f32>,
}

fn inputs(shape: DeltaShape) -> Inputs {
    let mut random = Random::new(23);
    let DeltaHeads { value_heads, key_dim, .. } = shape.heads;
    let tokens = shape.sequences * shape.seq_len;
    let gate = |at: usize| match at / value_heads % 2 {
        0 => -random.uniform() as f32,
        _ => 0.1 + 0.9 * random.uniform() as f32,
    };
    let gates = (0..2 * tokens * value_heads).map(gate).collect();
    // of about length 1
    let qk = random.normals(tokens * shape.heads.qk_width(), 1.0 / (key_dim as f32).sqrt());
    let values = tokens * shape.heads.value_width();
    Inputs { qk, v: random.normals(values, 1.0), gates, dout: random.normals(values, 1.0) }
}

fn upload(dev: &Device, values: &[f32]) -> Buffer {
    dev.upload("input", values).unwrap()
}

fn run_backward(dev: &Device, x: &Inputs, shape: DeltaShape) -> [Vec<f32>; 3] {
    let inputs = [&x.qk, &x.v, &x.gates, &x.dout].map(|values| upload(dev, values));
    // old contents must not matter
    let outputs = [&x.qk, &x.v, &x.gates].map(|values| upload(dev, values));
    let [dqk, dv, dgates] = &outputs;
    gated_delta_backward(dev, inputs.each_ref(), [dqk, dv, dgates], shape).unwrap();
    outputs.map(|buffer| dev.read(&buffer).unwrap())
}

#[test]
fn the_gated_delta_rule_of_many_shapes() {
    let shapes = [
        shape(2, 9, [2, 4], [8, 5]),
        shape(1, 70, [1, 1], [20, 18]),
        shape(3, 1, [1, 3], [33, 4]),
        shape(1, 40, [2, 2], [128, 128]),
        shape(1, 12, [1, 2], [256, 40]),
    ];
    for shape in shapes {
        let x = inputs(shape);
        let want = reference(&widen(&x.qk), &widen(&x.v), &widen(&x.gates), shape);
        for dev in devices() {
            let inputs = [&x.qk, &x.v, &x.gates].map(|values| upload(&dev, values));
            let out = dev.alloc("out", x.v.len() * 4).unwrap();
            gated_delta(&dev, inputs.each_ref(), &out, shape).unwrap();
            assert_close(&format!("{shape:?} on {}", dev.name()), &dev.read(&out).unwrap(), &want, 1e-11);
        }
    }
}

#[test]
fn gated_delta_backward_is_the_derivative() {
    let shapes = [
        shape(2, 9, [2, 4], [8, 5]),
        shape(1, 13, [1, 1], [20, 18]),
        shape(3, 1, [1, 3], [5, 4]),
        shape(1, 4, [1, 2], [17, 3]),
    ];
    for shape in shapes {
        let x = inputs(shape);
        let (qk, v, gates, dout) = (widen(&x.qk), widen(&x.v), widen(&x.gates), widen(&x.dout));
        let loss = |qk: &[f64], v: &[f64], gates: &[f64]| inner(&reference(qk, v, gates, shape), &dout);
        let want = [
            differences(&qk, |qk| loss(qk, &v, &gates)),
            differences(&v, |v| loss(&qk, v, &gates)),
            differences(&gates, |gates| loss(&qk, &v, gates)),
        ];
        for dev in devices() {
            for ((name, want), got) in ["dqk", "dv", "dgates"].iter().zip(&want).zip(run_backward(&dev, &x, shape)) {
                assert_close(&format!("{name} of {shape:?} on {}", dev.name()), &got, want, 1e-10);
            }
        }
    }
}

#[test]
fn gated_delta_backward_agrees_between_devices_on_real_heads() {
    for shape in [shape(1, 70, [1, 2], [128, 128]), shape(2, 33, [2, 2], [64, 80])] {
        let x = inputs(shape);
        let want = run_backward(&Device::cpu(), &x, shape);
        for dev in devices() {
            for ((name, want), got) in ["dqk", "dv", "dgates"].iter().zip(&want).zip(run_backward(&dev, &x, shape)) {
                assert_close(&format!("{name} of {shape:?} on {}", dev.name()), &got, &widen(want), 1e-10);
            }
        }
    }
}

#[test]
fn states_of_many_sequences_are_kept_in_turns() {
    let shape = shape(5, 6, [1, 2], [8, 6]);
    let x = inputs(shape);
    let want = run_backward(&Device::cpu(), &x, shape);
    for dev in devices() {
        // room for the states of one or two sequences, and for every input
        let dev = dev.with_max_binding_bytes(16 << 10);
        for (want, got) in want.iter().zip(run_backward(&dev, &x, shape)) {
            assert_close(&format!("in turns on {}", dev.name()), &got, &widen(want), 1e-10);
        }
    }
}

#[test]
fn linear_attention_that_makes_no_sense_is_refused() {
    for dev in devices() {
        let buffer = dev.alloc("buffer", 4096).unwrap();
        let out = dev.alloc("out", 4096).unwrap();
        let refused = |shape| gated_delta(&dev, [&buffer; 3], &out, shape).is_err();
        assert!(refused(shape(1, 4, [2, 3], [8, 8])), "heads do not divide");
        assert!(refused(shape(1, 4, [0, 2], [8, 8])), "no keys");
        assert!(refused(shape(9, 64, [2, 2], [8, 8])), "too small");
        assert!(!refused(shape(1, 4, [2, 4], [8, 8])));
    }
}
