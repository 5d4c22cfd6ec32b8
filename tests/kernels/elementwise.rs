//! Norms, rope, gated activations, sums and column_moments.

use dq_gpu::kernels::column_moments::column_moments;
use dq_gpu::kernels::copy_columns::{Columns, Onto, copy_columns};
use dq_gpu::kernels::glu::{Activation, glu};
use dq_gpu::kernels::glu_backward::glu_backward;
use dq_gpu::kernels::norm::{NormKind, NormParams, norm};
use dq_gpu::kernels::norm_backward::norm_backward;
use dq_gpu::kernels::rope::{RopeParams, RopeStyle, rope};
use dq_gpu::kernels::scale::scale;
use dq_gpu::kernels::sigmoid_gate::{GateShape, sigmoid_gate};
use dq_gpu::kernels::sigmoid_gate_backward::sigmoid_gate_backward;
use dq_gpu::kernels::sum::{difference, sum};
use dq_gpu::kernels::{
    add_rows::add_rows,
    gather_rows::{Rows, gather_rows},
};

use crate::common::{Random, assert_close, devices, widen};
use crate::{differences, inner};

const EPS: f32 = 1e-5;

const KINDS: [NormKind; 2] = [NormKind::Rms, NormKind::Layer];

fn normed(kind: NormKind, x: &[f64], weight: &[f64]) -> Vec<f64> {
    let width = weight.len();
    x.chunks(width)
        .flat_map(|row| {
            let mean = if kind == NormKind::Layer { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
            let row: Vec<f64> = row.iter().map(|x| x - mean).collect();
            let rms = (inner(&row, &row) / width as f64 + f64::from(EPS)).sqrt();
            row.iter().zip(weight).map(move |(x, w)| x / rms * w).collect::<Vec<_>>()
        })
        .collect()
}

/// Rows that are not around 0.
fn shifted(random: &mut Random, len: usize, size: f32) -> Vec<f32> {
    random.normals(len, size).into_iter().map(|x| x + 0.7 * size).collect()
}

#[test]
fn norms_of_heads_and_hidden_states() {
    for (kind, (rows, width)) in
        KINDS.into_iter().flat_map(|kind| [(7, 64), (3, 80), (5, 257), (2, 1030)].map(|s| (kind, s)))
    {
        let mut random = Random::new(1);
        let (x, weight) = (shifted(&mut random, rows * width, 2.0), random.normals(width, 1.0));
        let want = normed(kind, &widen(&x), &widen(&weight));
        for dev in devices() {
            let (xb, wb) = (dev.upload("x", &x).unwrap(), dev.upload("weight", &weight).unwrap());
            let yb = dev.alloc("y", rows * width * 4).unwrap();
            let params = NormParams { kind, rows, width, eps: EPS };
            norm(&dev, &xb, &wb, &yb, params).unwrap();
            assert_close(&format!("{params:?} on {}", dev.name()), &dev.read(&yb).unwrap(), &want, 1e-12);
        }
    }
}

#[test]
fn norm_backward_is_the_derivative() {
    for (kind, (rows, width)) in KINDS.into_iter().flat_map(|kind| [(3, 20), (2, 300)].map(|s| (kind, s))) {
        let params = NormParams { kind, rows, width, eps: EPS };
        let mut random = Random::new(2);
        let (x, dy) = (shifted(&mut random, rows * width, 1.0), random.normals(rows * width, 1.0));
        let (weight, before) = (random.normals(width, 1.0), random.normals(rows * width, 1.0));
        let (dy64, weight64) = (widen(&dy), widen(&weight));
        let gradient = differences(&widen(&x), |x| inner(&normed(kind, x, &weight64), &dy64));
        for dev in devices() {
            for accumulate in [false, true] {
                let (xb, wb) = (dev.upload("x", &x).unwrap(), dev.upload("weight", &weight).unwrap());
                let (dyb, dxb) = (dev.upload("dy", &dy).unwrap(), dev.upload("dx", &before).unwrap());
                norm_backward(&dev, &xb, &wb, &dyb, &dxb, params, accumulate).unwrap();
                let add = |(g, b): (&f64, &f32)| if accumulate { g + f64::from(*b) } else { *g };
                let want: Vec<f64> = gradient.iter().zip(&before).map(add).collect();
                assert_close(&format!("{params:?} on {}", dev.name()), &dev.read(&dxb).unwrap(), &want, 1e-10);
            }
        }
    }
}

fn rotated(x: &[f32], table: &[f32], params: RopeParams) -> Vec<f64> {
    let mut out = widen(x);
    let RopeParams { tokens, seq_len, heads, head_dim, rot, style, inverse } = params;
    for token in 0..tokens {
        for head in 0..heads {
            let base = (token * heads + head) * head_dim;
            for pair in 0..rot / 2 {
                let (a, b) = match style {
                    RopeStyle::Norm => (base + 2 * pair, base + 2 * pair + 1),
                    RopeStyle::Neox => (base + pair, base + pair + rot / 2),
                };
                let at = (token % seq_len * rot / 2 + pair) * 2;
                let (cos, sin) = (f64::from(table[at]), f64::from(table[at + 1]) * if inverse { -1.0 } else { 1.0 });
                (out[a], out[b]) = (out[a] * cos - out[b] * sin, out[a] * sin + out[b] * cos);
            }
        }
    }
    out
}

#[test]
fn rope_rotates_and_rotates_back() {
    for (style, heads, head_dim, rot) in
        [(RopeStyle::Norm, 3, 64, 64), (RopeStyle::Neox, 2, 80, 32), (RopeStyle::Neox, 1, 128, 128)]
    {
        let (tokens, seq_len) = (22, 11);
        let x = Random::new(3).normals(tokens * heads * head_dim, 1.0);
        let angle = |i: usize| (i / (rot / 2)) as f32 * 10000f32.powf(-2.0 * (i % (rot / 2)) as f32 / rot as f32);
        let table: Vec<f32> = (0..seq_len * rot / 2).flat_map(|i| [angle(i).cos(), angle(i).sin()]).collect();
        let params = RopeParams { tokens, seq_len, heads, head_dim, rot, style, inverse: false };
        let want = rotated(&x, &table, params);
        for dev in devices() {
            let (xb, tb) = (dev.upload("x", &x).unwrap(), dev.upload("table", &table).unwrap());
            rope(&dev, &xb, &tb, params).unwrap();
            assert_close(&format!("{style:?} on {}", dev.name()), &dev.read(&xb).unwrap(), &want, 1e-12);
            rope(&dev, &xb, &tb, RopeParams { inverse: true, ..params }).unwrap();
            assert_close(&format!("{style:?} back on {}", dev.name()), &dev.read(&xb).unwrap(), &widen(&x), 1e-12);
        }
    }
}

fn gated(activation: Activation, gate: &[f64], up: &[f64]) -> Vec<f64> {
    let value = |x: f64, up: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()) * up,
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh()) * up
        }
        Activation::ClampedSwiglu => {
            let x = x.min(7.0);
            x / (1.0 + (-1.702 * x).exp()) * (up.clamp(-7.0, 7.0) + 1.0)
        }
    };
    gate.iter().zip(up).map(|(gate, up)| value(*gate, *up)).collect()
}

#[test]
fn gated_activations_and_their_derivatives() {
    let len = 2500;
    let mut random = Random::new(4);
    // of both some are beyond 7
    let (mut gate, up, dout) = (random.normals(len, 3.0), random.normals(len, 4.0), random.normals(len, 1.0));
    gate[..5].copy_from_slice(&[-200.0, 200.0, 0.0, -1e30, 1e30]);
    let (gate64, up64, dout64) = (widen(&gate), widen(&up), widen(&dout));
    for activation in Activation::ALL {
        // Elementwise: one shifted evaluation differentiates all.
        let slope = |by_gate: bool| -> Vec<f64> {
            let step = 1e-5;
            let moved = |x: &[f64], by: f64| x.iter().map(|x| x + by).collect::<Vec<_>>();
            let at = |by: f64| match by_gate {
                true => gated(activation, &moved(&gate64, by), &up64),
                false => gated(activation, &gate64, &moved(&up64, by)),
            };
            let differences = at(step).into_iter().zip(at(-step)).zip(&dout64);
            differences.map(|((a, b), d)| (a - b) / (2.0 * step) * d).collect()
        };
        for dev in devices() {
            let upload = |name, values: &[f32]| dev.upload(name, values).unwrap();
            let (gb, ub, db) = (upload("gate", &gate), upload("up", &up), upload("dout", &dout));
            let [out, dgate, dup] = ["out", "dgate", "dup"].map(|name| dev.alloc(name, len * 4).unwrap());
            glu(&dev, activation, &gb, &ub, &out, len).unwrap();
            glu_backward(&dev, activation, [&gb, &ub, &db], [&dgate, &dup], len).unwrap();
            // where gates are so large, sums over all would see nothing else, and differences of f64 nothing at all
            let close = |what: &str, found: &dq_gpu::device::Buffer, want: &[f64], bound| {
                let found = dev.read::<f32>(found).unwrap();
                assert!(found.iter().all(|value| value.is_finite()));
                assert_close(&format!("{what} of {activation:?} on {}", dev.name()), &found[5..], &want[5..], bound);
            };
            close("value", &out, &gated(activation, &gate64, &up64), 1e-12);
            close("dgate", &dgate, &slope(true), 1e-10);
            close("dup", &dup, &slope(false), 1e-10);
        }
    }
}

fn opened(x: &[f64], gate: &[f64], shape: GateShape) -> Vec<f64> {
    let GateShape { width, gate_width, .. } = shape;
    let gate_of = |at: usize| gate[at / width * gate_width + at % width % gate_width];
    x.iter().enumerate().map(|(at, x)| x / (1.0 + (-gate_of(at)).exp())).collect()
}

#[test]
fn gates_of_elements_and_of_rows_and_their_derivatives() {
    let mut random = Random::new(12);
    for (rows, width, gate_width) in [(5, 70, 70), (9, 70, 1), (3, 300, 1), (4, 1, 1), (2, 530, 530)] {
        let shape = GateShape { rows, width, gate_width };
        let (x, dy) = (random.normals(rows * width, 1.0), random.normals(rows * width, 1.0));
        let gate = random.normals(rows * gate_width, 2.0);
        let (x64, gate64, dy64) = (widen(&x), widen(&gate), widen(&dy));
        let want = [
            opened(&x64, &gate64, shape),
            differences(&x64, |x| inner(&opened(x, &gate64, shape), &dy64)),
            differences(&gate64, |gate| inner(&opened(&x64, gate, shape), &dy64)),
        ];
        for dev in devices() {
            let [xb, gb, dyb] = [&x, &gate, &dy].map(|values| dev.upload("input", values).unwrap());
            // old contents must not matter
            let [y, dx, dgate] = [&dy, &dy, &gate].map(|values| dev.upload("output", values).unwrap());
            sigmoid_gate(&dev, &xb, &gb, &y, shape).unwrap();
            sigmoid_gate_backward(&dev, [&xb, &gb, &dyb], [&dx, &dgate], shape).unwrap();
            for ((name, found), want) in [("y", &y), ("dx", &dx), ("dgate", &dgate)].into_iter().zip(&want) {
                let what = format!("{name} of {shape:?} on {}", dev.name());
                assert_close(&what, &dev.read(found).unwrap(), want, 1e-10);
            }
            let other = GateShape { rows: 1, width: 4, gate_width: 2 };
            assert!(sigmoid_gate(&dev, &xb, &gb, &y, other).is_err(), "neither a gate for each nor one for all");
        }
    }
}

#[test]
fn rows_are_gathered_and_added_back() {
    const WIDTH: usize = 37;
    let (x, before) = (Random::new(3).normals(50 * WIDTH, 1.0), Random::new(4).normals(50 * WIDTH, 1.0));
    let (places, scales) = ([0u32, 3, 4, 21, 49], [1.0f32, -0.5, 2.0, 0.25, 3.0]);
    let listed = || places.iter().map(|place| *place as usize).zip(scales);
    let row = |place: usize| place * WIDTH..(place + 1) * WIDTH;
    let gathered: Vec<f32> = listed().flat_map(|(place, scale)| x[row(place)].iter().map(move |x| scale * x)).collect();
    let mut added = before.clone();
    for (at, (place, scale)) in listed().enumerate() {
        added[row(place)].iter_mut().zip(&gathered[row(at)]).for_each(|(out, x)| *out += scale * x);
    }
    for dev in devices() {
        let rows = Rows::upload(&dev, &places, &scales).unwrap();
        let (x, out) = (dev.upload("x", &x).unwrap(), dev.alloc("rows", 5 * WIDTH * 4).unwrap());
        gather_rows(&dev, &x, &rows, &out, WIDTH).unwrap();
        assert_eq!(dev.read::<f32>(&out).unwrap(), gathered, "on {}", dev.name());
        let sum = dev.upload("sum", &before).unwrap();
        add_rows(&dev, &out, &rows, &sum, WIDTH).unwrap();
        let sum: Vec<f64> = dev.read::<f32>(&sum).unwrap().into_iter().map(f64::from).collect();
        let want: Vec<f64> = added.iter().copied().map(f64::from).collect();
        assert!(sum.iter().zip(&want).all(|(sum, want)| (sum - want).abs() < 1e-6), "on {}", dev.name());
    }
}

#[test]
fn columns_are_copied_added_and_set_among_zeros() {
    const ROWS: usize = 41;
    for ([src_width, src_first], [dst_width, dst_first], count) in
        [([70, 3], [33, 2], 31), ([33, 2], [70, 39], 31), ([5, 0], [5, 0], 5), ([9, 8], [1, 0], 1)]
    {
        let (x, before) =
            (Random::new(8).normals(ROWS * src_width, 1.0), Random::new(9).normals(ROWS * dst_width, 1.0));
        for onto in [Onto::Place, Onto::Sum, Onto::Zeros] {
            let want = before.iter().enumerate().map(|(at, before)| {
                let (row, column) = (at / dst_width, at % dst_width);
                let copied = (dst_first..dst_first + count).contains(&column);
                let value = copied.then(|| x[row * src_width + src_first + column - dst_first]);
                match (onto, value) {
                    (Onto::Zeros, None) => 0.0,
                    (_, None) => *before,
                    (Onto::Sum, Some(value)) => before + value,
                    (_, Some(value)) => value,
                }
            });
            let want: Vec<f32> = want.collect();
            for dev in devices() {
                let (xb, out) = (dev.upload("x", &x).unwrap(), dev.upload("out", &before).unwrap());
                let src = Columns { matrix: &xb, width: src_width, first: src_first };
                let dst = Columns { matrix: &out, width: dst_width, first: dst_first };
                copy_columns(&dev, src, dst, count, ROWS, onto).unwrap();
                assert_eq!(dev.read::<f32>(&out).unwrap(), want, "{onto:?} on {}", dev.name());
                assert!(copy_columns(&dev, src, dst, count + 3, ROWS, onto).is_err(), "beyond the last column");
            }
        }
    }
}

#[test]
fn values_are_scaled_in_place() {
    let x = Random::new(10).normals(3001, 1.0);
    let want: Vec<f32> = x.iter().enumerate().map(|(at, x)| if at < 2999 { 0.22 * x } else { *x }).collect();
    for dev in devices() {
        let values = dev.upload("x", &x).unwrap();
        scale(&dev, &values, 0.22, 2999).unwrap();
        assert_eq!(dev.read::<f32>(&values).unwrap(), want, "on {}", dev.name());
    }
}

#[test]
fn sums_and_differences_are_elementwise() {
    let (a, b) = (Random::new(6).normals(3001, 1.0), Random::new(7).normals(3001, 1.0));
    let pairs = || a.iter().zip(&b);
    let sums: Vec<f32> = pairs().map(|(a, b)| a + b).collect();
    let differences: Vec<f32> = pairs().map(|(a, b)| a - b).collect();
    for dev in devices() {
        let (ab, bb, out) =
            (dev.upload("a", &a).unwrap(), dev.upload("b", &b).unwrap(), dev.alloc("out", 3001 * 4).unwrap());
        sum(&dev, &ab, &bb, &out, 3001).unwrap();
        assert_eq!(dev.read::<f32>(&out).unwrap(), sums, "on {}", dev.name());
        difference(&dev, &ab, &bb, &out, 3001).unwrap();
        assert_eq!(dev.read::<f32>(&out).unwrap(), differences, "on {}", dev.name());
    }
}

#[test]
fn column_moments_accumulate() {
    for (n, k) in [(1, 5), (9, 70), (100, 32), (33, 200)] {
        let x = Random::new(5).normals(n * k, 1.0);
        let mut want = vec![0.0; 2 * k];
        for (i, value) in x.iter().enumerate() {
            want[i % k] += 2.0 * f64::from(*value).powi(2);
            want[k + i % k] += 2.0 * f64::from(*value);
        }
        for dev in devices() {
            let (xb, sums) = (dev.upload("x", &x).unwrap(), dev.alloc("sums", 2 * k * 4).unwrap());
            column_moments(&dev, &xb, &sums, n, k).unwrap();
            column_moments(&dev, &xb, &sums, n, k).unwrap();
            assert_close(&format!("{n} x {k} on {}", dev.name()), &dev.read(&sums).unwrap(), &want, 1e-12);
        }
    }
}
