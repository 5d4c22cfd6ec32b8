//! matmul, matmul_rows, matmul_transposed, gram, and the weights they read.

use dq_gpu::device::{Device, shader};
use dq_gpu::kernels::gram::{Columns, cross_gram, gram};
use dq_gpu::kernels::matmul::{matmul, matmul_rows};
use dq_gpu::kernels::matmul_transposed::matmul_transposed;
use dq_gpu::kernels::weight::Weight;
use dq_gpu::quant::{self, GgmlType};
use half::{bf16, f16};

use crate::common::{Random, assert_close, devices, widen};

/// A random matrix in a plain type: its file bytes and what they decode to.
fn matrix(ty: GgmlType, rows: usize, cols: usize, seed: u64) -> (Vec<u8>, Vec<f64>) {
    let values = Random::new(seed).normals(rows * cols, 0.5);
    match ty {
        GgmlType::F32 => (bytemuck::cast_slice(&values).to_vec(), widen(&values)),
        GgmlType::F16 => {
            let stored: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
            (bytemuck::cast_slice(&stored).to_vec(), stored.iter().map(|v| v.to_f64()).collect())
        }
        GgmlType::BF16 => {
            let stored: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
            (bytemuck::cast_slice(&stored).to_vec(), stored.iter().map(|v| v.to_f64()).collect())
        }
        _ => unreachable!("plain types only"),
    }
}

/// x `[n, k]` times the transpose of w `[m, k]`.
fn product(x: &[f64], w: &[f64], [n, m, k]: [usize; 3]) -> Vec<f64> {
    let mut y = vec![0.0; n * m];
    for i in 0..n {
        for j in 0..m {
            y[i * m + j] = (0..k).map(|l| x[i * k + l] * w[j * k + l]).sum();
        }
    }
    y
}

/// Devices that keep the weight whole, and devices that cut it into several slabs.
fn with_slabs(row_bytes: usize, largest_other: usize) -> Vec<Device> {
    let cut = (20 * row_bytes).max(largest_other);
    devices().into_iter().flat_map(|dev| [dev.clone(), dev.with_max_binding_bytes(cut)]).collect()
}

#[test]
fn matmul_of_odd_shapes_and_every_plain_type() {
    let shapes = [[1, 7, 10], [5, 64, 64], [33, 65, 18], [70, 130, 50], [129, 200, 34]];
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16] {
        for shape @ [n, m, k] in shapes {
            let x = Random::new(1).normals(n * k, 1.0);
            let (bytes, w) = matrix(ty, m, k, 2);
            let want = product(&widen(&x), &w, shape);
            for dev in devices() {
                let what = format!("{ty} {shape:?} on {}", dev.name());
                let weight = Weight::upload(&dev, "w", ty, m, k, &bytes).unwrap();
                let (xb, yb) = (dev.upload("x", &x).unwrap(), dev.alloc("y", n * m * 4).unwrap());
                matmul(&dev, &xb, &weight, None, &yb, n, false).unwrap();
                assert_close(&what, &dev.read(&yb).unwrap(), &want, 1e-12);
            }
        }
    }
}

#[test]
fn matmul_adds_bias_and_what_was_there_across_slabs() {
    let [n, m, k] = [37, 150, 40];
    let mut random = Random::new(3);
    let (x, bias, before) = (random.normals(n * k, 1.0), random.normals(m, 1.0), random.normals(n * m, 1.0));
    let (bytes, w) = matrix(GgmlType::BF16, m, k, 4);
    let plain = product(&widen(&x), &w, [n, m, k]);
    for dev in with_slabs(2 * k, n * m * 4) {
        let weight = Weight::upload(&dev, "w", GgmlType::BF16, m, k, &bytes).unwrap();
        let (xb, bb) = (dev.upload("x", &x).unwrap(), dev.upload("bias", &bias).unwrap());
        for (with_bias, accumulate) in [(false, true), (true, false), (true, true)] {
            let yb = dev.upload("y", &before).unwrap();
            matmul(&dev, &xb, &weight, with_bias.then_some(&bb), &yb, n, accumulate).unwrap();
            let want: Vec<f64> = (0..n * m)
                .map(|i| {
                    let bias = if with_bias { f64::from(bias[i % m]) } else { 0.0 };
                    plain[i] + bias + if accumulate { f64::from(before[i]) } else { 0.0 }
                })
                .collect();
            let what = format!("bias {with_bias}, accumulate {accumulate} on {}", dev.name());
            assert_close(&what, &dev.read(&yb).unwrap(), &want, 1e-12);
        }
    }
}

#[test]
fn weights_are_cut_into_slabs_and_come_back() {
    let (rows, cols) = (150, 40);
    let (bytes, _) = matrix(GgmlType::F16, rows, cols, 5);
    for dev in devices() {
        let cut = dev.with_max_binding_bytes(20 * 2 * cols);
        let weight = Weight::upload(&cut, "w", GgmlType::F16, rows, cols, &bytes).unwrap();
        assert_eq!(weight.slabs().len(), 8);
        assert_eq!(weight.download(&cut).unwrap(), bytes);
        let parts: Vec<_> = weight.parts(15..45).map(|(slab, rows, at)| (slab.first_row, rows, at)).collect();
        assert_eq!(parts, [(0, 15..20, 0), (20, 0..20, 5), (40, 0..5, 25)]);
        assert!(Weight::upload(&cut, "w", GgmlType::F16, rows, cols, &bytes[1..]).is_err());
        assert!(Weight::zeroed(&dev.with_max_binding_bytes(cols), "w", GgmlType::F16, rows, cols).is_err());
        assert!(Weight::zeroed(&dev, "w", GgmlType::Q4_K, rows, cols).is_err());
    }
}

#[test]
fn matmul_rows_is_a_part_of_the_product() {
    let [n, m, k] = [9, 150, 26];
    let x = Random::new(6).normals(n * k, 1.0);
    let (bytes, w) = matrix(GgmlType::F16, m, k, 7);
    for dev in with_slabs(2 * k, n * 100 * 4) {
        let weight = Weight::upload(&dev, "w", GgmlType::F16, m, k, &bytes).unwrap();
        let xb = dev.upload("x", &x).unwrap();
        for rows in [0..150, 3..4, 15..115, 149..150] {
            let yb = dev.alloc("y", n * rows.len() * 4).unwrap();
            if dev.max_binding_bytes() < yb.bytes() {
                continue;
            }
            matmul_rows(&dev, &xb, &weight, &yb, n, rows.clone()).unwrap();
            let want = product(&widen(&x), &w[rows.start * k..rows.end * k], [n, rows.len(), k]);
            assert_close(&format!("rows {rows:?} on {}", dev.name()), &dev.read(&yb).unwrap(), &want, 1e-12);
        }
        let yb = dev.alloc("y", n * 4).unwrap();
        assert!(matmul_rows(&dev, &xb, &weight, &yb, n, 150..151).is_err());
        assert!(matmul_rows(&dev, &xb, &weight, &yb, n, 0..2).is_err(), "y is too small");
    }
}

#[test]
fn matmul_transposed_is_the_product_from_the_other_side() {
    for (ty, [n, m, k]) in [(GgmlType::F32, [5, 33, 7]), (GgmlType::BF16, [70, 150, 66]), (GgmlType::F16, [1, 40, 130])]
    {
        let mut random = Random::new(8);
        let (dy, before) = (random.normals(n * m, 1.0), random.normals(n * k, 1.0));
        let (bytes, w) = matrix(ty, m, k, 9);
        let columns: Vec<f64> = (0..k * m).map(|i| w[i % m * k + i / m]).collect();
        for dev in with_slabs(4 * k, n * m.max(k) * 4) {
            let weight = Weight::upload(&dev, "w", ty, m, k, &bytes).unwrap();
            let dyb = dev.upload("dy", &dy).unwrap();
            let dxb = dev.upload("dx", &before).unwrap();
            let what = format!("{ty} {:?} on {}", [n, m, k], dev.name());
            matmul_transposed(&dev, &dyb, &weight, &dxb, n, 0..m, false).unwrap();
            let want = product(&widen(&dy), &columns, [n, k, m]);
            assert_close(&what, &dev.read(&dxb).unwrap(), &want, 1e-12);
            // A few rows, on top of that.
            let rows = 21..m - 5;
            let part: Vec<f32> = dy.chunks(m).flat_map(|row| row[rows.clone()].iter().copied()).collect();
            let partb = dev.upload("part", &part).unwrap();
            matmul_transposed(&dev, &partb, &weight, &dxb, n, rows.clone(), true).unwrap();
            let columns: Vec<f64> =
                (0..k * rows.len()).map(|i| w[(rows.start + i % rows.len()) * k + i / rows.len()]).collect();
            let more = product(&widen(&part), &columns, [n, k, rows.len()]);
            let want: Vec<f64> = want.iter().zip(more).map(|(a, b)| a + b).collect();
            assert_close(&format!("part of {what}"), &dev.read(&dxb).unwrap(), &want, 1e-12);
        }
    }
}

#[test]
fn gram_accumulates_and_stays_symmetric() {
    for [n, k] in [[3, 5], [40, 64], [17, 130], [33, 300]] {
        let x = Random::new(10).normals(n * k, 1.0);
        let columns: Vec<f64> = (0..k * n).map(|i| f64::from(x[i % n * k + i / n])).collect();
        let want: Vec<f64> = product(&columns, &columns, [k, k, n]).iter().map(|v| 2.0 * v).collect();
        for dev in devices() {
            let (xb, hb) = (dev.upload("x", &x).unwrap(), dev.alloc("h", k * k * 4).unwrap());
            let x = Columns::all(&xb, k);
            gram(&dev, &x, &hb, n).unwrap();
            gram(&dev, &x, &hb, n).unwrap();
            let got: Vec<f32> = dev.read(&hb).unwrap();
            assert_close(&format!("gram {n} x {k} on {}", dev.name()), &got, &want, 1e-12);
            assert!((0..k * k).all(|i| got[i] == got[i % k * k + i / k]), "symmetric on {}", dev.name());
            let part = Columns { range: 2..k - 1, ..x };
            let (side, square) = (k - 3, dev.alloc("part", (k - 3) * (k - 3) * 4).unwrap());
            (0..2).for_each(|_| gram(&dev, &part, &square, n).unwrap());
            let want: Vec<f64> = (0..side * side).map(|i| want[(2 + i / side) * k + 2 + i % side]).collect();
            assert_close(&format!("part of gram {n} x {k}"), &dev.read(&square).unwrap(), &want, 1e-12);
            assert!(gram(&dev, &Columns { range: 1..k + 1, ..part }, &square, n).is_err());
        }
    }
}

#[test]
fn cross_gram_is_the_product_of_some_columns() {
    for [n, k, m] in [[3, 5, 70], [40, 300, 64], [17, 130, 9]] {
        let mut random = Random::new(12);
        let (x, y, before) = (random.normals(n * k, 1.0), random.normals(n * m, 1.0), random.normals(k * m, 1.0));
        let (cols, part) = (1..k, 2..m - 1);
        let left: Vec<f64> =
            cols.clone().flat_map(|i| (0..n).map(move |t| (t, i))).map(|(t, i)| f64::from(x[t * k + i])).collect();
        let right: Vec<f64> =
            part.clone().flat_map(|j| (0..n).map(move |t| (t, j))).map(|(t, j)| f64::from(y[t * m + j])).collect();
        let sums = product(&left, &right, [cols.len(), part.len(), n]);
        let want: Vec<f64> = sums.iter().zip(&before).map(|(sum, before)| sum + f64::from(*before)).collect();
        for dev in devices() {
            let (xb, yb) = (dev.upload("x", &x).unwrap(), dev.upload("y", &y).unwrap());
            let hb = dev.upload("h", &before[..cols.len() * part.len()]).unwrap();
            let (x, y) = (Columns { range: cols.clone(), ..Columns::all(&xb, k) }, Columns::all(&yb, m));
            cross_gram(&dev, &x, &Columns { range: part.clone(), ..y }, &hb, n).unwrap();
            assert_close(&format!("{n}, {k} x {m} on {}", dev.name()), &dev.read(&hb).unwrap(), &want, 1e-12);
        }
    }
}

#[test]
fn wrong_buffers_are_refused() {
    for dev in devices() {
        let (bytes, _) = matrix(GgmlType::F32, 4, 6, 11);
        let weight = Weight::upload(&dev, "w", GgmlType::F32, 4, 6, &bytes).unwrap();
        let small = dev.alloc("too small", 4 * 5).unwrap();
        let right = dev.alloc("right", 4 * 6).unwrap();
        let error = matmul(&dev, &small, &weight, None, &right, 1, false).unwrap_err().to_string();
        assert!(error.contains("too small") && error.contains("matmul"), "{error}");
        assert!(
            matmul(&dev, &right, &weight, None, &right, 1, false).is_err() || dev.flush().is_err(),
            "one buffer twice"
        );
        assert_eq!(dev.read::<f32>(&right).unwrap().len(), 6, "the device survives");
    }
    if let Some(gpu) = crate::common::gpu() {
        let host = Device::cpu().alloc("on the host", 24).unwrap();
        let (bytes, _) = matrix(GgmlType::F32, 4, 6, 11);
        let weight = Weight::upload(gpu, "w", GgmlType::F32, 4, 6, &bytes).unwrap();
        let y = gpu.alloc("y", 16).unwrap();
        let error = matmul(gpu, &host, &weight, None, &y, 1, false).unwrap_err().to_string();
        assert!(error.contains("on the host"), "{error}");
        let cut = gpu.with_max_binding_bytes(1024);
        let large = gpu.alloc("large", 2048).unwrap();
        let error = matmul(&cut, &large, &weight, None, &y, 1, false).unwrap_err().to_string();
        assert!(error.contains("large") && error.contains("1024"), "{error}");
        assert!(Weight::zeroed(gpu, "odd", GgmlType::F16, 2, 3).is_err());
    }
}

#[test]
fn a_long_grid_is_cut_into_dispatches() {
    // Together more than one dispatch, and one submission, may take.
    let [n, m, k] = [700, 900, 600];
    let x = Random::new(12).normals(n * k, 1.0);
    let (bytes, w) = matrix(GgmlType::BF16, m, k, 13);
    for dev in devices() {
        let weight = Weight::upload(&dev, "w", GgmlType::BF16, m, k, &bytes).unwrap();
        let (xb, yb) = (dev.upload("x", &x).unwrap(), dev.alloc("y", n * m * 4).unwrap());
        for _ in 0..4 {
            matmul(&dev, &xb, &weight, None, &yb, n, true).unwrap();
        }
        let got: Vec<f32> = dev.read(&yb).unwrap();
        for (i, j) in [(0, 0), (699, 899), (350, 17), (128, 64), (127, 63)] {
            let want: f64 = (0..k).map(|l| 4.0 * f64::from(x[i * k + l]) * w[j * k + l]).sum();
            assert!((f64::from(got[i * m + j]) - want).abs() < 1e-3, "({i}, {j}) on {}", dev.name());
        }
    }
}

/// Every block format: what its decoder says, through matmul, matmul_transposed and slabs.
#[test]
fn products_decode_every_block_format() {
    let [n, m, k] = [3, 70, 512];
    let mut random = Random::new(14);
    let (x, dy) = (random.normals(n * k, 1.0), random.normals(n * m, 1.0));
    let values = random.normals(m * k, 0.1);
    let types = GgmlType::all().filter(|ty| ty.is_quantized() && quant::format(*ty).is_some());
    for ty in types {
        let mut bytes = vec![0; ty.bytes_for((m * k) as u64) as usize];
        quant::encode(ty, &values, &vec![1.0; k], &mut bytes).unwrap();
        let mut decoded = vec![0.0; m * k];
        quant::decode(ty, &bytes, &mut decoded).unwrap();
        let w = widen(&decoded);
        let columns: Vec<f64> = (0..k * m).map(|i| w[i % m * k + i / m]).collect();
        let (want_y, want_dx) = (product(&widen(&x), &w, [n, m, k]), product(&widen(&dy), &columns, [n, k, m]));
        for dev in devices() {
            if dev.is_gpu() && !shader::decoders().any(|known| known == ty) {
                continue;
            }
            let what = format!("{ty} on {}", dev.name());
            // At least 20 rows per slab, padded as on a GPU.
            let cut = dev.with_max_binding_bytes((30 * k * 9 / 8).max(n * k * 4));
            let weight = Weight::upload(&cut, "w", ty, m, k, &bytes).unwrap();
            assert_eq!(weight.download(&cut).unwrap(), bytes, "{what}");
            let upload = |values: &[f32]| cut.upload("input", values).unwrap();
            let (xb, dyb) = (upload(&x), upload(&dy));
            let (yb, dxb) = (cut.alloc("y", n * m * 4).unwrap(), cut.alloc("dx", n * k * 4).unwrap());
            matmul(&cut, &xb, &weight, None, &yb, n, false).unwrap();
            assert_close(&what, &cut.read(&yb).unwrap(), &want_y, 1e-11);
            matmul_transposed(&cut, &dyb, &weight, &dxb, n, 0..m, false).unwrap();
            assert_close(&format!("{what}, transposed"), &cut.read(&dxb).unwrap(), &want_dx, 1e-11);
        }
    }
}
