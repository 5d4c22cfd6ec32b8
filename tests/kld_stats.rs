//! Divergence statistics against numpy (`tests/data/kld/records.json`), intervals against simulation, and llama.cpp's logits
//! file.

use std::fs;
use std::path::Path;

use dq_gpu::kld::logits_file::divergence;
use dq_gpu::kld::{LogitsFile, LogitsWriter, Report, Statistics, TokenRecord, compare};
use serde_json::Value;

fn fixture() -> (Vec<TokenRecord>, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kld/records.json");
    let json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let number = |row: &Value, i: usize| row[i].as_f64().unwrap();
    let records = json["records"].as_array().unwrap().iter().map(|row| TokenRecord {
        kld: number(row, 0),
        lp_base: number(row, 1),
        lp_quant: number(row, 2),
        same_top: row[3] == 1,
        chunk: number(row, 4) as u32,
        domain: number(row, 5) as u16,
    });
    (records.collect(), json)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-11 * a.abs().max(b.abs()).max(1e-3)
}

/// Every expected number against the JSON field of the same name.
fn assert_matches(found: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        let found = found[name].as_f64().unwrap_or_else(|| panic!("no field {name}"));
        assert!(close(found, value.as_f64().unwrap()), "{name}: {found} instead of {value}");
    }
}

#[test]
fn statistics_agree_with_numpy() {
    let (records, json) = fixture();
    let report = Report::new(&records, &["chat".to_owned(), "code".to_owned()]).unwrap();
    let found = serde_json::to_value(&report).unwrap();
    assert_eq!(json["expected"].as_object().unwrap().len(), 46);
    assert_matches(&found, &json["expected"]);
    for (domain, name) in ["chat", "code"].iter().enumerate() {
        assert_eq!(found["domains"][domain]["domain"], **name);
        assert_matches(&found["domains"][domain], &json["expected_domains"][domain]);
    }
    let means = [0, 1].map(|d| json["expected_domains"][d]["mean_kld"].as_f64().unwrap());
    assert!(close(report.domain_mean_kld, (means[0] + means[1]) / 2.0));
}

#[test]
fn json_has_the_promised_fields_and_round_trips() {
    let (records, _) = fixture();
    let mut report = Report::new(&records, &["a".to_owned(), "unused".to_owned(), "b".to_owned()][..2]).unwrap();
    report.bytes_base = Some(1000);
    report.bytes_quant = Some(280);
    let json = serde_json::to_value(&report).unwrap();
    for field in [
        "tokens",
        "mean_kld",
        "median_kld",
        "p90_kld",
        "p95_kld",
        "p99_kld",
        "p999_kld",
        "max_kld",
        "same_top",
        "rms_dp",
        "ppl_base",
        "ppl_quant",
        "mean_kld_se",
        "bytes_base",
        "bytes_quant",
    ] {
        assert!(json[field].is_number(), "{field}");
    }
    assert_eq!(serde_json::from_str::<Report>(&json.to_string()).unwrap(), report);
    let table = report.table();
    assert!(table.contains("mean KLD") && table.contains("280 of 1000 (28.00 %)") && table.contains("unused"));
}

#[test]
fn identical_models_have_no_divergence() {
    let records: Vec<TokenRecord> = (0..100)
        .map(|i| {
            let lp = -0.1 * f64::from(i + 1);
            TokenRecord { kld: 0.0, lp_base: lp, lp_quant: lp, same_top: true, chunk: i / 10, domain: 0 }
        })
        .collect();
    let s = Statistics::new(&records).unwrap();
    assert_eq!([s.mean_kld, s.mean_kld_se, s.max_kld, s.rms_dp, s.rms_dp_se, s.ln_ppl_ratio, s.ppl_diff], [0.0; 7]);
    assert_eq!((s.same_top, s.same_top_se, s.mean_kld_ci95), (1.0, 0.0, [0.0, 0.0]));
    assert!((s.ppl_correlation - 1.0).abs() < 1e-12 && s.ln_ppl_ratio_se < 1e-12);
}

#[test]
fn few_records_and_bad_records() {
    let one = TokenRecord { kld: 0.5, lp_base: -1.0, lp_quant: -2.0, same_top: false, chunk: 3, domain: 0 };
    let s = Statistics::new(&[one]).unwrap();
    assert_eq!((s.mean_kld, s.median_kld, s.p999_kld, s.mean_kld_se), (0.5, 0.5, 0.5, 0.0));
    // Everything is a number, so JSON can hold it.
    let json = serde_json::to_value(&s).unwrap();
    assert!(json.as_object().unwrap().values().all(|v| v.is_number() || v.is_array()));

    assert!(Statistics::new(&[]).unwrap_err().to_string().contains("no token"));
    let nan = TokenRecord { kld: f64::NAN, ..one };
    assert!(Statistics::new(&[one, nan]).unwrap_err().to_string().contains("token 1 (chunk 3)"));
    let stranger = TokenRecord { domain: 4, ..one };
    assert!(Report::new(&[stranger], &["a".to_owned()]).unwrap_err().to_string().contains("unknown domain 4"));
}

/// Uniform numbers in 0..1.
fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// 40 chunks of 25 tokens: each token's divergence is its chunk's level plus its own part. The mean is 0.1.
fn clustered(seed: u64, shift: f64) -> Vec<TokenRecord> {
    let mut random = random(seed);
    let mut records = Vec::new();
    for chunk in 0..40 {
        let level = 0.1 * random();
        for _ in 0..25 {
            let kld = level + 0.1 * random() + shift;
            records.push(TokenRecord { kld, lp_base: -1.0, lp_quant: -1.1, same_top: true, chunk, domain: 0 });
        }
    }
    records
}

#[test]
fn intervals_cover_the_true_mean() {
    let runs = 200;
    let (mut covered, mut naive) = (0, 0);
    for seed in 0..runs {
        let s = Statistics::new(&clustered(seed, 0.0)).unwrap();
        covered += usize::from(s.mean_kld_ci95[0] <= 0.1 && 0.1 <= s.mean_kld_ci95[1]);
        naive += usize::from((s.mean_kld - 0.1).abs() <= 1.96 * s.mean_kld_se_naive);
        // The normal interval of the robust error agrees with the resampled one.
        let width = (s.mean_kld_ci95[1] - s.mean_kld_ci95[0]) / (2.0 * 1.96 * s.mean_kld_se);
        assert!((width - 1.0).abs() < 0.12, "{width}");
    }
    // 95 % +- 3 standard errors; treating tokens as independent is far off.
    assert!((181..=199).contains(&covered), "{covered} of {runs}");
    assert!(naive < 150, "{naive} of {runs}");
}

#[test]
fn pairs_tell_close_models_apart() {
    let first = clustered(1, 0.0);
    let mut noise = random(9);
    let second: Vec<TokenRecord> =
        first.iter().map(|r| TokenRecord { kld: r.kld - 0.002 + 0.004 * (noise() - 0.5), ..*r }).collect();
    let c = compare(&first, &second).unwrap();
    assert!(c.improves() && c.difference_ci95[0] < -0.002 && -0.002 < c.difference_ci95[1], "{c:?}");
    assert!(c.ratio.unwrap() < 1.0 && c.ratio_ci95.unwrap()[1] < 1.0 && c.better > 0.9);
    let back = compare(&second, &first).unwrap();
    assert!(!back.improves() && (back.difference + c.difference).abs() < 1e-15);
    // Separate means could not tell.
    let (a, b) = (Statistics::new(&first).unwrap(), Statistics::new(&second).unwrap());
    assert!(b.mean_kld_ci95[1] > a.mean_kld_ci95[0]);

    let same = compare(&first, &first).unwrap();
    assert_eq!((same.difference, same.difference_ci95, same.improves()), (0.0, [0.0, 0.0], false));
    assert!(compare(&first, &second[1..]).unwrap_err().to_string().contains("same tokens"));
    assert!(compare(&first[..25], &second[..25]).unwrap_err().to_string().contains("at least two chunks"));
}

fn softmax_logs(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|z| f64::from(z - max).exp()).sum();
    logits.iter().map(|z| f64::from(z - max) - sum.ln()).collect()
}

#[test]
fn logits_files_round_trip() {
    // An odd vocabulary, so that records are padded.
    let (n_ctx, n_vocab, n_chunk) = (9, 101, 3);
    let tokens: Vec<u32> = (0..n_ctx * n_chunk).map(|i| (i * 37 % n_vocab) as u32).collect();
    let mut random = random(3);
    let rows: Vec<Vec<f32>> =
        (0..n_chunk * 4).map(|_| (0..n_vocab).map(|_| (20.0 * random() - 5.0) as f32).collect()).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.kld");
    let mut writer = LogitsWriter::create(&path, n_ctx, n_vocab, &tokens).unwrap();
    for row in &rows {
        assert!(!path.exists());
        writer.row(row).unwrap();
    }
    assert!(writer.row(&rows[0]).unwrap_err().to_string().contains("more rows"));
    writer.finish().unwrap();

    let bytes = fs::read(&path).unwrap();
    assert_eq!(&bytes[..8], b"_logits_");
    assert_eq!(bytes.len(), 20 + 4 * n_ctx * n_chunk + 12 * (8 + 2 * 102));
    let file = LogitsFile::open(&path).unwrap();
    assert_eq!((file.n_ctx(), file.n_vocab(), file.n_chunk(), file.rows_per_chunk()), (9, 101, 3, 4));
    assert_eq!(file.tokens(), tokens);
    // Chunk 1 starts at token 9; its scored positions are 4..8 and their targets the tokens after them.
    assert_eq!((file.target(1, 0), file.target(1, 3)), (tokens[9 + 5], tokens[9 + 8]));
    let mut out = vec![0.0; n_vocab];
    for (i, row) in rows.iter().enumerate() {
        file.log_probs(i / 4, i % 4, &mut out);
        let exact = softmax_logs(row);
        let floor = exact.iter().copied().fold(f64::MIN, f64::max) - 16.0;
        for (found, exact) in out.iter().zip(&exact) {
            // Half a step of 16 / 65535.
            assert!((f64::from(*found) - exact.max(floor)).abs() < 1.3e-4, "{found} {exact}");
        }
    }

    // A cut file, a longer one, another one.
    for (bytes, part) in [
        (&bytes[..bytes.len() - 1], "bytes instead of"),
        (&[&bytes[..], &[0]].concat()[..], "bytes instead of"),
        (&bytes[..15], "not a file of llama.cpp"),
        (&[&bytes[..8], &[255; 12], &bytes[20..]].concat()[..], "damaged"),
    ] {
        let bad = folder.path().join("bad.kld");
        fs::write(&bad, bytes).unwrap();
        let text = LogitsFile::open(&bad).err().unwrap().to_string();
        assert!(text.contains(part) && text.contains("bad.kld"), "{text}");
    }
}

#[test]
fn logits_writer_refuses_nonsense() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.kld");
    let create = |n_ctx, n_vocab, tokens: &[u32]| LogitsWriter::create(&path, n_ctx, n_vocab, tokens);
    assert!(
        create(4, 10, &[1, 2, 3]).is_err() && create(2, 10, &[1, 2]).is_err() && create(4, 10, &[1, 2, 3, 10]).is_err()
    );
    let mut writer = create(4, 3, &[0, 1, 2, 0]).unwrap();
    assert!(writer.row(&[0.0, 1.0]).is_err() && writer.row(&[0.0, f32::NAN, 1.0]).is_err());
    assert!(writer.row(&[f32::INFINITY, 0.0, 0.0]).is_err());
    assert!(writer.finish().unwrap_err().to_string().contains("1 rows of the logits file are missing"));
    assert!(!path.exists() && fs::read_dir(folder.path()).unwrap().next().is_none());
    // Masked entries are allowed: they get the floor.
    let mut writer = create(4, 3, &[0, 1, 2, 0]).unwrap();
    writer.row(&[f32::NEG_INFINITY, 1.0, 1.0]).unwrap();
    writer.finish().unwrap();
    let mut out = [0.0; 3];
    LogitsFile::open(&path).unwrap().log_probs(0, 0, &mut out);
    assert!((out[1] + 2f32.ln()).abs() < 1e-3 && (out[0] - (out[1] - 16.0)).abs() < 1e-3);
}

#[test]
fn divergence_of_one_position() {
    let (p, q) = ([1.0f32, 2.0, 3.0, -30.0], [1.5f32, 1.0, 3.5, 0.0]);
    let (log_p, log_q) = (softmax_logs(&p), softmax_logs(&q));
    let base: Vec<f32> = log_p.iter().map(|x| *x as f32).collect();
    let (kld, lp_base, lp_quant, same_top) = divergence(&base, &q, 1);
    let expected: f64 = log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q)).sum();
    assert!((kld - expected).abs() < 1e-6 && (lp_base - log_p[1]).abs() < 1e-6 && (lp_quant - log_q[1]).abs() < 1e-9);
    assert!(same_top && !divergence(&base, &[9.0, 1.0, 3.5, 0.0], 1).3);
    let (itself, ..) = divergence(&base, &p, 1);
    assert!(itself.abs() < 1e-6);
}
