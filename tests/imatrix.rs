//! Importance matrix files against llama.cpp's own and against each other.
//!
//! `tests/data/imatrix/llama.{gguf,dat}` were written by llama-imatrix from `models/tiny-llama` (context 128).

use std::path::{Path, PathBuf};
use std::process::Command;

use dq_gpu::gguf::{Array, GgufFile, GgufWriter, Metadata, TensorPlan, Value};
use dq_gpu::imatrix::{Entry, Imatrix};
use dq_gpu::quant::GgmlType;
use proptest::prelude::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/imatrix").join(name)
}

fn dense(sum2: &[f64], count: f64) -> Entry {
    Entry { sum2: sum2.to_vec(), sum: None, counts: vec![count] }
}

fn imatrix(entries: &[(&str, Entry)], chunk_size: u32) -> Imatrix {
    Imatrix {
        entries: entries.iter().map(|(name, entry)| (name.to_string(), entry.clone())).collect(),
        datasets: vec!["text.txt".into()],
        chunk_count: 3,
        chunk_size,
        extra: Vec::new(),
    }
}

fn error(result: anyhow::Result<impl Sized>) -> String {
    format!("{:#}", result.err().expect("must fail"))
}

#[test]
fn llama_cpp_s_two_formats_hold_the_same_means() {
    let (new, old) = (Imatrix::read(&data("llama.gguf")).unwrap(), Imatrix::read(&data("llama.dat")).unwrap());
    assert_eq!(new.entries.len(), 56); // 7 per layer; llama-imatrix leaves the output out
    assert_eq!((new.chunk_size, old.chunk_size), (128, 0));
    assert!(new.chunk_count > 10 && new.chunk_count == old.chunk_count);
    assert_eq!(new.datasets, old.datasets);
    for name in new.entries.keys() {
        let (a, b) = (new.mean2(name).unwrap(), old.mean2(name).unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()), "{name}");
    }
    assert_eq!(new.mean2_for("blk.0.ffn_down.weight", 768, 1).unwrap().unwrap().len(), 768);
    assert!(new.mean2("blk.99.ffn_down.weight").is_none());
    let wrong = error(new.mean2_for("blk.0.ffn_down.weight", 256, 1));
    assert!(wrong.contains("blk.0.ffn_down.weight") && wrong.contains("768"), "{wrong}");
}

#[test]
fn what_llama_cpp_wrote_is_written_again_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let imatrix = Imatrix::read(&data("llama.gguf")).unwrap();
    let (gguf, dat) = (dir.path().join("a"), dir.path().join("b"));
    imatrix.write_gguf(&gguf).unwrap();
    imatrix.write_dat(&dat).unwrap();
    let same = |path: &Path, name: &str| std::fs::read(path).unwrap() == std::fs::read(data(name)).unwrap();
    assert!(same(&gguf, "llama.gguf"));
    assert!(same(&dat, "llama.dat"));
}

#[test]
fn merging_adds_sums_counts_and_datasets() {
    let mut a = imatrix(&[("x", dense(&[1.0, 2.0], 10.0)), ("y", dense(&[1.0], 5.0))], 5);
    let b = imatrix(&[("x", dense(&[3.0, 4.0], 20.0)), ("z", dense(&[7.0], 5.0))], 5);
    a.merge(&b).unwrap();
    assert_eq!(a.entries["x"], dense(&[4.0, 6.0], 30.0));
    assert_eq!(a.entries["z"], dense(&[7.0], 5.0));
    assert_eq!((a.chunk_count, a.datasets.len(), a.entries.len()), (6, 2, 3));
}

#[test]
fn merging_a_legacy_file_brings_its_counts_to_tokens() {
    let new = imatrix(&[("x", dense(&[640.0], 320.0))], 64); // mean 2 over 5 chunks
    let old = imatrix(&[("x", dense(&[20.0], 5.0))], 0); // mean 4 over 5 chunks
    for (first, second) in [(&new, &old), (&old, &new)] {
        let mut merged = first.clone();
        merged.merge(second).unwrap();
        assert_eq!((merged.mean2("x").unwrap(), merged.chunk_size, merged.chunk_count), (vec![3.0], 64, 10));
    }
}

#[test]
fn one_count_stands_for_all_experts_when_merging() {
    let experts = Entry { sum2: vec![1.0, 2.0, 3.0, 4.0], sum: None, counts: vec![1.0, 3.0] };
    let mut a = imatrix(&[("x", experts.clone())], 1);
    let b = imatrix(&[("x", dense(&[1.0; 4], 2.0))], 1);
    a.merge(&b).unwrap();
    assert_eq!(a.entries["x"], Entry { sum2: vec![2.0, 3.0, 4.0, 5.0], sum: None, counts: vec![3.0, 5.0] });
    let mut b = b;
    b.merge(&imatrix(&[("x", experts)], 1)).unwrap();
    assert_eq!(b.entries["x"], a.entries["x"]);
}

#[test]
fn matrices_of_different_models_do_not_merge() {
    let mut a = imatrix(&[("w", dense(&[1.0], 1.0)), ("x", dense(&[1.0, 2.0], 1.0))], 1);
    let before = a.clone();
    let message = error(a.merge(&imatrix(&[("w", dense(&[1.0], 1.0)), ("x", dense(&[1.0], 1.0))], 1)));
    assert!(message.contains("`x`"), "{message}");
    assert_eq!(a, before);
}

#[test]
fn an_expert_without_tokens_weighs_one_and_has_mean_zero() {
    let entry = Entry { sum2: vec![0.0, 0.0, 8.0, 4.0], sum: Some(vec![0.0, 0.0, 2.0, -2.0]), counts: vec![0.0, 4.0] };
    let imatrix = imatrix(&[("x", entry)], 4);
    assert_eq!(imatrix.mean2("x").unwrap(), [1.0, 1.0, 2.0, 1.0]);
    assert_eq!(imatrix.mean("x").unwrap(), [0.0, 0.0, 0.5, -0.5]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.dat");
    imatrix.write_dat(&path).unwrap();
    assert_eq!(Imatrix::read(&path).unwrap().mean2("x").unwrap(), [1.0, 1.0, 2.0, 1.0]);
}

#[test]
fn bad_values_are_refused_with_the_entry_s_name() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (dense(&[f64::NAN], 1.0), "not finite"),
        (dense(&[-1.0], 1.0), "negative"),
        (dense(&[1.0], f64::INFINITY), "count"),
        (Entry { sum2: vec![1.0; 3], sum: None, counts: vec![1.0; 2] }, "divide"),
        (Entry { sum2: vec![1.0; 2], sum: Some(vec![1.0]), counts: vec![1.0] }, "sums"),
        (Entry::default(), "empty"),
    ];
    for (entry, word) in cases {
        let bad = imatrix(&[("blk.3.attn_q.weight", entry)], 1);
        let message = error(bad.write_gguf(&dir.path().join("x")));
        assert!(message.contains("blk.3.attn_q.weight") && message.contains(word), "{message}");
    }
    assert!(error(Imatrix::default().write_gguf(&dir.path().join("x"))).contains("no entries"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn other_files_are_refused_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::fs::read(data("llama.dat")).unwrap();
    let cases: [(&str, &[u8]); 4] = [
        ("empty.dat", b""),
        ("text.dat", b"hello, this is no matrix at all"),
        ("cut.dat", &full[..5000]),
        ("cut.gguf", b"GGUF"),
    ];
    for (name, bytes) in cases {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let message = error(Imatrix::read(&path));
        assert!(message.contains(name), "{message}");
    }
    assert!(error(Imatrix::read(&dir.path().join("none"))).contains("none"));
}

#[test]
fn a_gguf_that_lacks_a_key_or_a_tensor_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"];
    for missing in keys.iter().copied().chain(["x.counts", "x.in_sum2"]) {
        let mut metadata = Metadata::new();
        metadata.set("imatrix.datasets", Value::Array(Array::String(vec![])));
        metadata.set("imatrix.chunk_count", Value::U32(1));
        metadata.set("imatrix.chunk_size", Value::U32(1));
        metadata.remove(missing);
        let plan = |name: &str| TensorPlan { name: name.into(), dims: vec![1], ty: GgmlType::F32 };
        let plans: Vec<_> = ["x.in_sum2", "x.counts"].into_iter().filter(|n| *n != missing).map(plan).collect();
        let path = dir.path().join("m.gguf");
        let mut writer = GgufWriter::new(&path, &metadata, &plans).unwrap();
        for plan in &plans {
            writer.write_tensor(&plan.name, &1f32.to_le_bytes()).unwrap();
        }
        writer.finish().unwrap();
        let message = error(Imatrix::read(&path));
        let named = if keys.contains(&missing) { missing } else { "`x`" };
        assert!(message.contains(named) && message.contains("m.gguf"), "{message}");
    }
}

#[test]
fn the_content_decides_the_format_not_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.dat");
    let imatrix = Imatrix::read(&data("llama.gguf")).unwrap();
    imatrix.write_gguf(&path).unwrap();
    assert_eq!(Imatrix::read(&path).unwrap(), imatrix);
}

fn entry() -> impl Strategy<Value = Entry> {
    // Values that f32 holds exactly, as the files store f32.
    let value = || (0u32..1 << 20).prop_map(|v| f64::from(v) / 64.0);
    (1usize..5, 1usize..9, any::<bool>()).prop_flat_map(move |(matrices, cols, with_sum)| {
        let len = matrices * cols;
        let sum = prop::collection::vec(value().prop_map(|v| v - 1000.0), len).prop_map(Some);
        let sum = if with_sum { sum.boxed() } else { Just(None).boxed() };
        let counts = prop::collection::vec((0u32..10_000).prop_map(f64::from), matrices);
        (prop::collection::vec(value(), len), sum, counts).prop_map(|(sum2, sum, counts)| Entry { sum2, sum, counts })
    })
}

fn any_imatrix() -> impl Strategy<Value = Imatrix> {
    let entries = prop::collection::btree_map("[a-z0-9.]{1,40}", entry(), 1..6);
    (entries, prop::collection::vec(".{0,20}", 0..3), any::<u32>(), 0u32..5000).prop_map(
        |(entries, datasets, chunk_count, chunk_size)| Imatrix {
            entries,
            datasets,
            chunk_count,
            chunk_size,
            extra: vec![("dq_gpu.version".into(), Value::String("0.1.0".into()))],
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn gguf_round_trip(imatrix in any_imatrix()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        imatrix.write_gguf(&path).unwrap();
        prop_assert_eq!(Imatrix::read(&path).unwrap(), imatrix);
    }

    #[test]
    fn legacy_round_trip_keeps_the_means(imatrix in any_imatrix()) {
        let stored = |entry: &Entry| entry.counts.iter().any(|&count| count > 0.0);
        prop_assume!(imatrix.entries.values().any(stored));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.dat");
        // 31 bits hold the number of chunks there
        let fits = i32::try_from(imatrix.chunk_count).is_ok();
        prop_assert_eq!(imatrix.write_dat(&path).is_ok(), fits);
        let imatrix = Imatrix { chunk_count: imatrix.chunk_count >> 1, ..imatrix };
        imatrix.write_dat(&path).unwrap();
        let read = Imatrix::read(&path).unwrap();
        for (name, entry) in imatrix.entries.iter().filter(|(_, entry)| stored(entry)) {
            let (a, b) = (imatrix.mean2(name).unwrap(), read.mean2(name).unwrap());
            prop_assert_eq!(a.len(), entry.sum2.len());
            prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs()));
        }
    }

    #[test]
    fn legacy_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.dat");
        std::fs::write(&path, bytes).unwrap();
        let _ = Imatrix::read(&path);
    }
}

/// `DQ_GPU_PYTHON=python3 cargo test --test imatrix -- --ignored` (with the `gguf` package).
#[test]
#[ignore = "needs Python with the gguf package"]
fn python_s_gguf_reads_ours() {
    let python = std::env::var_os("DQ_GPU_PYTHON").expect("DQ_GPU_PYTHON is set");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let entry = Entry { sum2: vec![1.0, 2.0, 3.0, 4.0], sum: Some(vec![-1.0; 4]), counts: vec![5.0, 6.0] };
    imatrix(&[("blk.0.ffn_up_exps.weight", entry)], 512).write_gguf(&path).unwrap();
    let script = "import sys, gguf\n\
        r = gguf.GGUFReader(sys.argv[1])\n\
        assert r.fields['general.type'].contents() == 'imatrix'\n\
        assert r.fields['imatrix.datasets'].contents() == ['text.txt']\n\
        assert r.fields['imatrix.chunk_size'].contents() == 512\n\
        t = {t.name: (list(map(int, t.shape)), t.data.flatten().tolist()) for t in r.tensors}\n\
        n = 'blk.0.ffn_up_exps.weight'\n\
        assert t[n + '.in_sum2'] == ([2, 2], [1, 2, 3, 4]), t\n\
        assert t[n + '.counts'] == ([1, 2], [5, 6]), t\n\
        assert t[n + '.in_sum'] == ([2, 2], [-1] * 4), t\n";
    let status = Command::new(python).args(["-c", script]).arg(&path).status().unwrap();
    assert!(status.success());
    assert_eq!(GgufFile::open(&path).unwrap().tensors.len(), 3);
}

/// `DQ_GPU_LLAMA_IMATRIX=/path/to/llama-imatrix cargo test --test imatrix -- --ignored`
#[test]
#[ignore = "needs llama-imatrix"]
fn llama_cpp_reads_ours_and_ignores_what_it_does_not_know() {
    let program = std::env::var_os("DQ_GPU_LLAMA_IMATRIX").expect("DQ_GPU_LLAMA_IMATRIX is set");
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours.gguf"), dir.path().join("theirs.gguf"));
    let plain = Imatrix::read(&data("llama.gguf")).unwrap();
    let mut rich = plain.clone();
    rich.extra.push(("dq_gpu.version".into(), Value::String("0.1.0".into())));
    for entry in rich.entries.values_mut() {
        entry.sum = Some(vec![-1.0; entry.sum2.len()]);
    }
    rich.write_gguf(&ours).unwrap();
    let model = std::env::var_os("DQ_GPU_MODEL").expect("DQ_GPU_MODEL is any model that llama.cpp loads");
    let mut command = Command::new(program);
    command.arg("-m").arg(model).arg("--in-file").arg(&ours).arg("-o").arg(&theirs).args(["-c", "128", "-b", "128"]);
    assert!(command.args(["--output-format", "gguf"]).status().unwrap().success());
    let read = Imatrix::read(&theirs).unwrap();
    assert_eq!(read.entries, plain.entries);
}
