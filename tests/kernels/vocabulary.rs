//! kld and sample_gradient over tiles of the vocabulary.

use dq_gpu::device::Device;
use dq_gpu::kernels::kld::{self, TokenStats};
use dq_gpu::kernels::logit_shape::{LogitShape, shape_logits, shape_logits_backward};
use dq_gpu::kernels::sample_gradient;

use crate::common::{Random, assert_close, devices, widen};

fn log_softmax(z: &[f32]) -> Vec<f64> {
    let max = z.iter().fold(f32::MIN, |a, b| a.max(*b));
    let total: f64 = z.iter().map(|z| (f64::from(*z) - f64::from(max)).exp()).sum();
    z.iter().map(|z| f64::from(*z) - f64::from(max) - total.ln()).collect()
}

fn arg_max(z: &[f32]) -> usize {
    (0..z.len()).fold(0, |best, i| if z[i] > z[best] { i } else { best })
}

/// Columns `first..first + tile` of a matrix with `vocab` columns.
fn columns(z: &[f32], vocab: usize, first: usize, tile: usize) -> Vec<f32> {
    z.chunks(vocab).flat_map(|row| &row[first..first + tile]).copied().collect()
}

fn tiles(vocab: usize, largest: usize) -> Vec<(usize, usize)> {
    (0..vocab).step_by(largest).map(|first| (first, largest.min(vocab - first))).collect()
}

fn divergence(
    dev: &Device,
    base: &[f32],
    quant: &[f32],
    targets: &[u32],
    vocab: usize,
    largest: usize,
) -> Vec<TokenStats> {
    let n = targets.len();
    let state = kld::start(dev, n).unwrap();
    let targets = dev.upload("targets", targets).unwrap();
    for (first, tile) in tiles(vocab, largest) {
        let base = dev.upload("base", &columns(base, vocab, first, tile)).unwrap();
        let quant = dev.upload("quant", &columns(quant, vocab, first, tile)).unwrap();
        kld::tile(dev, &state, &base, &quant, &targets, n, tile, first).unwrap();
    }
    kld::finish(dev, &state).unwrap()
}

#[test]
fn divergence_of_noisy_logits_in_one_tile_and_in_many() {
    let (n, vocab) = (6, 5000);
    let mut random = Random::new(1);
    let base: Vec<f32> = random.normals(n * vocab, 3.0).iter().map(|z| z + 20.0).collect();
    let quant: Vec<f32> = base.iter().map(|z| z + random.normal() * 0.1 - 7.0).collect();
    let targets: Vec<u32> = (0..n).map(|_| (random.next_u64() % vocab as u64) as u32).collect();
    for dev in devices() {
        for largest in [vocab, 1333, 64] {
            let got = divergence(&dev, &base, &quant, &targets, vocab, largest);
            for (i, stats) in got.iter().enumerate() {
                let (b, q) = (&base[i * vocab..][..vocab], &quant[i * vocab..][..vocab]);
                let (lp, lq) = (log_softmax(b), log_softmax(q));
                let want: f64 = lp.iter().zip(&lq).map(|(p, q)| p.exp() * (p - q)).sum();
                let what = format!("position {i}, tiles of {largest} on {}", dev.name());
                assert!(want > 1e-3 && (stats.kld - want).abs() < 3e-6, "{what}: {} not {want}", stats.kld);
                let target = targets[i] as usize;
                assert!((stats.lp_base - lp[target]).abs() < 1e-5, "{what}: {} {}", stats.lp_base, lp[target]);
                assert!((stats.lp_quant - lq[target]).abs() < 1e-5, "{what}: {} {}", stats.lp_quant, lq[target]);
                assert_eq!(stats.same_top, arg_max(b) == arg_max(q), "{what}");
            }
        }
    }
}

#[test]
fn equal_logits_diverge_by_exactly_nothing() {
    let (n, vocab) = (5, 3001);
    let base = Random::new(2).normals(n * vocab, 5.0);
    for dev in devices() {
        for largest in [vocab, 700] {
            for stats in divergence(&dev, &base, &base.clone(), &[0, 1, 2, 3, 3000], vocab, largest) {
                assert_eq!(stats.kld, 0.0, "on {}", dev.name());
                assert_eq!(stats.lp_base, stats.lp_quant);
                assert!(stats.same_top);
            }
        }
    }
}

#[test]
fn another_top_token_is_noticed() {
    for dev in devices() {
        let stats = divergence(&dev, &[0.0, 5.0, 1.0, 4.0], &[0.0, 4.0, 1.0, 5.0], &[1], 4, 3);
        assert!(!stats[0].same_top, "on {}", dev.name());
    }
}

#[test]
fn labels_follow_the_uniform_numbers() {
    let (n, vocab) = (40, 900);
    let mut random = Random::new(3);
    let z = random.normals(n * vocab, 2.0);
    let mut uniforms: Vec<f32> = (0..n).map(|_| random.uniform() as f32).collect();
    uniforms[0] = 0.0;
    uniforms[1] = 1.0 - f32::EPSILON / 2.0;
    for dev in devices() {
        for largest in [vocab, 250] {
            let state = sample_gradient::start(&dev, n).unwrap();
            let ub = dev.upload("uniforms", &uniforms).unwrap();
            let parts: Vec<_> = tiles(vocab, largest)
                .into_iter()
                .map(|(first, tile)| (dev.upload("z", &columns(&z, vocab, first, tile)).unwrap(), first, tile))
                .collect();
            for (z, first, tile) in &parts {
                sample_gradient::lse_tile(&dev, &state, z, n, *tile, *first).unwrap();
            }
            for (z, first, tile) in &parts {
                sample_gradient::cdf_tile(&dev, &state, z, &ub, n, *tile, *first).unwrap();
            }
            let labels = sample_gradient::labels(&dev, &state).unwrap();
            for (i, label) in labels.iter().enumerate() {
                let log_p = log_softmax(&z[i * vocab..][..vocab]);
                let below: f64 = log_p[..*label as usize].iter().map(|p| p.exp()).sum();
                let above = below + log_p[*label as usize].exp();
                let u = f64::from(uniforms[i]);
                let hit = below <= u + 1e-6 && u - 1e-6 <= above;
                // The last number may fall beyond the rounded sum: then the most probable token is taken.
                assert!(hit || i == 1, "position {i}: {u} outside of [{below}, {above}] on {}", dev.name());
            }
            for (z_tile, first, tile) in &parts {
                sample_gradient::gradient_tile(&dev, &state, z_tile, n, *tile, *first).unwrap();
                let want: Vec<f64> = (0..n * tile)
                    .map(|at| {
                        let (row, column) = (at / tile, first + at % tile);
                        let p = log_softmax(&z[row * vocab..][..vocab])[column].exp();
                        p - f64::from(u8::from(labels[row] as usize == column))
                    })
                    .collect();
                let got: Vec<f32> = dev.read(z_tile).unwrap();
                assert_close(&format!("gradient, tile at {first} on {}", dev.name()), &got, &want, 1e-11);
            }
        }
    }
}

#[test]
fn labels_are_drawn_in_proportion() {
    let z = [1.0f32, 2.0, 0.0, 3.0];
    let n = 4000;
    let logits: Vec<f32> = (0..n).flat_map(|_| z).collect();
    let mut random = Random::new(4);
    let uniforms: Vec<f32> = (0..n).map(|_| random.uniform() as f32).collect();
    for dev in devices() {
        let (zb, ub) = (dev.upload("z", &logits).unwrap(), dev.upload("uniforms", &uniforms).unwrap());
        let state = sample_gradient::start(&dev, n).unwrap();
        sample_gradient::lse_tile(&dev, &state, &zb, n, 4, 0).unwrap();
        sample_gradient::cdf_tile(&dev, &state, &zb, &ub, n, 4, 0).unwrap();
        let labels = sample_gradient::labels(&dev, &state).unwrap();
        let share = |token: u32| labels.iter().filter(|label| **label == token).count() as f32 / n as f32;
        let got: Vec<f32> = (0..4).map(share).collect();
        let want: Vec<f64> = log_softmax(&z).iter().map(|p| p.exp()).collect();
        for (got, want) in widen(&got).iter().zip(&want) {
            assert!((got - want).abs() < 0.03, "{got} {want} on {}", dev.name());
        }
    }
}

#[test]
fn logits_are_scaled_and_capped_and_the_way_back_is_the_derivative() {
    let mut random = Random::new(5);
    let (z, dy) = (random.normals(1500, 20.0), random.normals(1500, 1.0));
    for shape in [LogitShape { scale: 0.3, softcap: None }, LogitShape { scale: 1.7, softcap: Some(8.0) }] {
        let shaped = |z: f64| {
            let scaled = f64::from(shape.scale) * z;
            shape.softcap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh())
        };
        let want: Vec<f64> = z.iter().map(|z| shaped(f64::from(*z))).collect();
        let slope = |z: f64| (shaped(z + 1e-5) - shaped(z - 1e-5)) / 2e-5;
        let gradient: Vec<f64> = z.iter().zip(&dy).map(|(z, dy)| slope(f64::from(*z)) * f64::from(*dy)).collect();
        for dev in devices() {
            let (zb, dzb) = (dev.upload("z", &z).unwrap(), dev.upload("dz", &dy).unwrap());
            shape_logits(&dev, &zb, z.len(), shape).unwrap();
            assert_close(&format!("{shape:?} on {}", dev.name()), &dev.read(&zb).unwrap(), &want, 1e-11);
            shape_logits_backward(&dev, &zb, &dzb, z.len(), shape).unwrap();
            assert_close(&format!("back from {shape:?} on {}", dev.name()), &dev.read(&dzb).unwrap(), &gradient, 1e-11);
        }
        // no infinity, however large
        let dev = &devices()[0];
        let huge = dev.upload("z", &[3e38f32, -3e38]).unwrap();
        shape_logits(dev, &huge, 2, LogitShape { scale: 0.5, softcap: Some(8.0) }).unwrap();
        assert_eq!(dev.read::<f32>(&huge).unwrap(), [8.0, -8.0]);
    }
}
