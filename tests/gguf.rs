//! The GGUF container from outside: bytes, round trips, damage, splits, and what a failed write leaves behind.

use std::path::{Path, PathBuf};

use dq_gpu::gguf::{Array, GgufFile, GgufWriter, Metadata, SplitName, TensorPlan, Value, file_size};
use dq_gpu::quant::GgmlType;
use proptest::prelude::*;
use tempfile::TempDir;

fn plan(name: &str, dims: &[u64], ty: GgmlType) -> TensorPlan {
    TensorPlan { name: name.into(), dims: dims.to_vec(), ty }
}

/// Writes a file whose tensors hold the bytes 0, 1, 2, ... from a start that differs by tensor.
fn write(path: &Path, metadata: &Metadata, plans: &[TensorPlan]) -> u64 {
    let mut writer = GgufWriter::new(path, metadata, plans).unwrap();
    for (start, plan) in plans.iter().enumerate() {
        for chunk in content(start, plan).chunks(7) {
            writer.write_tensor(&plan.name, chunk).unwrap();
        }
    }
    writer.finish().unwrap()
}

fn content(start: usize, plan: &TensorPlan) -> Vec<u8> {
    (0..plan.bytes().unwrap()).map(|byte| (byte as usize + 31 * start) as u8).collect()
}

fn small() -> (Metadata, Vec<TensorPlan>) {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    metadata.set("a", 7u32);
    (metadata, vec![plan("w", &[32, 2], GgmlType::Q8_0), plan("b", &[3], GgmlType::F32)])
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The message of a failure, causes included.
fn message<T>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.err().expect("an error"))
}

#[test]
fn a_file_has_the_bytes_of_the_specification() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("small.gguf");
    let (metadata, plans) = small();
    let size = write(&path, &metadata, &plans);

    let mut expected: Vec<u8> = Vec::new();
    let mut put = |bytes: &[u8]| expected.extend_from_slice(bytes);
    put(b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    put(b"\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama");
    put(b"\x01\0\0\0\0\0\0\0a\x04\0\0\0\x07\0\0\0");
    put(b"\x01\0\0\0\0\0\0\0w\x02\0\0\0\x20\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0");
    put(b"\x01\0\0\0\0\0\0\0b\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\x60\0\0\0\0\0\0\0");
    expected.resize(expected.len().next_multiple_of(32), 0);
    for (start, plan) in plans.iter().enumerate() {
        expected.extend(content(start, plan));
        expected.resize(expected.len().next_multiple_of(32), 0);
    }
    assert_eq!(std::fs::read(&path).unwrap(), expected);
    assert_eq!(size, expected.len() as u64);
    assert_eq!(file_size(&metadata, &plans).unwrap(), size);
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

fn array() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<Vec<u8>>().prop_map(Array::U8),
        any::<Vec<i8>>().prop_map(Array::I8),
        any::<Vec<u16>>().prop_map(Array::U16),
        any::<Vec<i16>>().prop_map(Array::I16),
        any::<Vec<u32>>().prop_map(Array::U32),
        any::<Vec<i32>>().prop_map(Array::I32),
        any::<Vec<f32>>().prop_map(Array::F32),
        any::<Vec<bool>>().prop_map(Array::Bool),
        prop::collection::vec(any::<String>(), 0..5).prop_map(Array::String),
        any::<Vec<u64>>().prop_map(Array::U64),
        any::<Vec<i64>>().prop_map(Array::I64),
        any::<Vec<f64>>().prop_map(Array::F64),
    ]
    .prop_map(Value::Array)
}

fn tensor() -> impl Strategy<Value = (Vec<u64>, GgmlType)> {
    let types: Vec<GgmlType> = GgmlType::all().collect();
    (prop::sample::select(types), 1u64..3, prop::collection::vec(1u64..4, 0..4)).prop_map(|(ty, blocks, rest)| {
        let mut dims = vec![blocks * ty.block_len() as u64];
        dims.extend(rest);
        (dims, ty)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read(
        values in prop::collection::vec(("[a-z.]{1,20}", prop_oneof![scalar(), array()]), 0..8),
        tensors in prop::collection::vec(tensor(), 0..6),
        alignment in prop::option::of(prop::sample::select(vec![1u32, 8, 32, 64])),
    ) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.gguf");
        let mut metadata: Metadata = values.into_iter().collect();
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", alignment);
        }
        let plans: Vec<_> =
            tensors.iter().enumerate().map(|(i, (dims, ty))| plan(&format!("tensor.{i}"), dims, *ty)).collect();
        let size = write(&path, &metadata, &plans);
        prop_assert_eq!(path.metadata().unwrap().len(), size);
        prop_assert_eq!(file_size(&metadata, &plans).unwrap(), size);

        let file = GgufFile::open(&path).unwrap();
        // NaN differs from itself, so the bits are compared through the text
        prop_assert_eq!(format!("{:?}", file.metadata.iter().collect::<Vec<_>>()), format!("{:?}", metadata.iter().collect::<Vec<_>>()));
        prop_assert_eq!(file.tensors.len(), plans.len());
        for (start, (plan, tensor)) in plans.iter().zip(&file.tensors).enumerate() {
            prop_assert_eq!((&plan.name, &plan.dims, plan.ty), (&tensor.name, &tensor.dims, tensor.ty));
            prop_assert_eq!(file.data(tensor).unwrap(), content(start, plan));
        }
    }

    #[test]
    fn damaged_files_never_panic(place in 0usize..300, byte in any::<u8>()) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.gguf");
        let (metadata, plans) = small();
        write(&path, &metadata, &plans);
        let mut bytes = std::fs::read(&path).unwrap();
        let place = place % bytes.len();
        bytes[place] = byte;
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = GgufFile::open(&path) {
            for tensor in &file.tensors {
                file.data(tensor).unwrap();
            }
        }
    }
}

#[test]
fn every_cut_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    let (metadata, plans) = small();
    write(&path, &metadata, &plans);
    let bytes = std::fs::read(&path).unwrap();
    // the last tensor's 12 bytes are followed by padding, which llama.cpp does not miss either
    let needed = bytes.len() - 20;
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let result = GgufFile::open(&path);
        if len < needed {
            let message = message(result);
            assert!(message.contains("a.gguf") && message.contains("truncated"), "{len}: {message}");
        } else {
            assert!(result.is_ok(), "{len}");
        }
    }
}

/// A header made by hand, so that it can be wrong.
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, tensors: u64, pairs: u64) -> Raw {
        let mut raw = Raw(b"GGUF".to_vec());
        raw.0.extend(version.to_le_bytes());
        raw.u64(tensors).u64(pairs);
        raw
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn text(&mut self, text: &[u8]) -> &mut Self {
        self.u64(text.len() as u64);
        self.0.extend(text);
        self
    }
    fn tensor(&mut self, name: &[u8], dims: &[u64], ty: u32, offset: u64) -> &mut Self {
        self.text(name).u32(dims.len() as u32);
        for &dim in dims {
            self.u64(dim);
        }
        self.u32(ty).u64(offset)
    }
    /// What opening the file says.
    fn message(&self) -> String {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("raw.gguf");
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 512, 0);
        std::fs::write(&path, bytes).unwrap();
        let message = message(GgufFile::open(&path));
        assert!(message.contains("raw.gguf"), "{message}");
        message
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let with_tensors = |count, fill: &dyn Fn(&mut Raw) -> &mut Raw| {
        let mut raw = Raw::new(3, count, 0);
        fill(&mut raw);
        raw.message()
    };
    let with_pairs = |count, fill: &dyn Fn(&mut Raw) -> &mut Raw| {
        let mut raw = Raw::new(3, 0, count);
        fill(&mut raw);
        raw.message()
    };
    let cases = [
        (Raw(b"GGML....".to_vec()).message(), "not a GGUF file: it starts with `GGML`"),
        (Raw::new(1, 0, 0).message(), "version 1"),
        (Raw::new(4, 0, 0).message(), "unknown GGUF version: `4`"),
        (Raw::new(3u32.swap_bytes(), 0, 0).message(), "big-endian"),
        (Raw::new(3, u64::MAX, 0).message(), "truncated"),
        (Raw::new(3, 0, u64::MAX).message(), "truncated"),
        (with_pairs(1, &|r| r.u64(u64::MAX)), "metadata key number `0`"),
        (with_pairs(1, &|r| r.text(b"k").u32(13).u64(0)), "metadata key `k` has an unknown value type: `13`"),
        (with_pairs(1, &|r| r.text(b"k").u32(9).u32(9).u64(0)), "array of arrays"),
        (with_pairs(1, &|r| r.text(b"k").u32(9).u32(0).u64(1 << 40)), "elements"),
        (with_pairs(1, &|r| r.text(b"k").u32(9).u32(8).u64(1 << 29)), "truncated"),
        (with_pairs(1, &|r| r.text(b"\xff").u32(8).text(b"v")), "UTF-8"),
        (with_pairs(1, &|r| r.text(b"").u32(4).u32(0)), "is empty"),
        (with_pairs(2, &|r| r.text(b"k").u32(4).u32(0).text(b"k").u32(4).u32(0)), "duplicate metadata key: `k`"),
        (with_pairs(1, &|r| r.text(b"general.alignment").u32(4).u32(24)), "`general.alignment`"),
        (with_tensors(1, &|r| r.tensor(b"w", &[4], 999, 0)), "tensor `w` has an unknown type id: `999`"),
        (with_tensors(1, &|r| r.tensor(b"w", &[4], 4, 0)), "tensor `w` has an unknown type id: `4`"),
        (
            with_tensors(1, &|r| r.tensor(b"w", &[33], 8, 0)),
            "tensor `w` has rows of 33 weights, which Q8_0 cannot store",
        ),
        (with_tensors(1, &|r| r.tensor(b"w", &[4, 0], 0, 0)), "empty dimension"),
        (with_tensors(1, &|r| r.tensor(b"w", &[1; 5], 0, 0)), "5 dimensions"),
        (with_tensors(1, &|r| r.tensor(b"w", &[1 << 40, 1 << 40], 0, 0)), "larger than any file"),
        (with_tensors(1, &|r| r.tensor(b"w", &[1 << 20], 0, 0)), "inside the data of tensor `w`"),
        (with_tensors(1, &|r| r.tensor(b"w", &[4], 0, 32)), "tensor `w` is at offset 32"),
        (with_tensors(2, &|r| r.tensor(b"w", &[4], 0, 0).tensor(b"v", &[4], 0, 16)), "tensor `v` is at offset 16"),
        (with_tensors(2, &|r| r.tensor(b"w", &[4], 0, 0).tensor(b"w", &[4], 0, 32)), "duplicate tensor name: `w`"),
        (with_tensors(1, &|r| r.tensor(&[b'n'; 64], &[4], 0, 0)), "64 bytes"),
    ];
    for (message, part) in cases {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
    let missing = message(GgufFile::open(Path::new("/nowhere/x.gguf")));
    assert!(missing.contains("/nowhere/x.gguf") && missing.contains("No such file"), "{missing}");
}

#[test]
fn version_2_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("v2.gguf");
    let (metadata, plans) = small();
    write(&path, &metadata, &plans);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4] = 2;
    std::fs::write(&path, bytes).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!((file.version(), file.tensors.len()), (2, 2));
}

/// A model of three files with two tensors each.
fn write_split(folder: &Path) -> Vec<PathBuf> {
    let name = SplitName::parse(&folder.join("big-00001-of-00003.gguf")).unwrap();
    (1..=3u16)
        .map(|number| {
            let path = name.path(number.into());
            let mut metadata = Metadata::new();
            if number == 1 {
                metadata.set("general.architecture", "llama");
            }
            metadata.set("split.no", number - 1);
            metadata.set("split.count", 3u16);
            metadata.set("split.tensors.count", 6i32);
            let plans = ["a", "b"].map(|letter| plan(&format!("{letter}{number}"), &[number.into()], GgmlType::F32));
            write(&path, &metadata, &plans);
            path
        })
        .collect()
}

#[test]
fn any_file_of_a_split_model_opens_all() {
    let folder = TempDir::new().unwrap();
    let paths = write_split(folder.path());
    for path in &paths {
        let file = GgufFile::open(path).unwrap();
        assert_eq!(file.file_count(), 3);
        assert_eq!(file.path, paths[0]);
        let names: Vec<&str> = file.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a1", "b1", "a2", "b2", "a3", "b3"]);
        let keys: Vec<&str> = file.metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["general.architecture"]);
        let tensor = file.tensor("b3").unwrap();
        assert_eq!(file.data(tensor).unwrap(), content(1, &plan("b3", &[3], GgmlType::F32)));
        assert_eq!(file.summary().elements, 12);
    }
}

#[test]
fn broken_split_models_are_refused() {
    let folder = TempDir::new().unwrap();
    let paths = write_split(folder.path());
    std::fs::rename(&paths[1], folder.path().join("away")).unwrap();
    let missing = message(GgufFile::open(&paths[2]));
    assert!(missing.contains("file 2 of 3") && missing.contains("big-00002-of-00003.gguf"), "{missing}");

    std::fs::copy(&paths[0], &paths[1]).unwrap();
    let wrong = message(GgufFile::open(&paths[0]));
    assert!(wrong.contains("number 2 of 3"), "{wrong}");

    let renamed = folder.path().join("renamed.gguf");
    std::fs::copy(&paths[0], &renamed).unwrap();
    assert!(message(GgufFile::open(&renamed)).contains("-00001-of-00003.gguf"));
}

#[test]
fn split_names() {
    let name = SplitName::parse(Path::new("dir/a-b-00002-of-00003.gguf")).unwrap();
    assert_eq!((name.number, name.count), (2, 3));
    assert_eq!(name.path(3), Path::new("dir/a-b-00003-of-00003.gguf"));
    for other in ["a.gguf", "a-2-of-3.gguf", "a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-00001-of-00003.bin"] {
        assert_eq!(SplitName::parse(Path::new(other)), None, "{other}");
    }
}

#[test]
fn an_unfinished_write_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    std::fs::write(&path, "older").unwrap();
    let (metadata, plans) = small();
    {
        let mut writer = GgufWriter::new(&path, &metadata, &plans).unwrap();
        writer.write_tensor("w", &[0; 10]).unwrap();
        assert_eq!(files_in(folder.path()).len(), 2, "the temporary file is beside the target");
    }
    assert_eq!(files_in(folder.path()), ["a.gguf"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"older");

    let mut writer = GgufWriter::new(&path, &metadata, &plans).unwrap();
    writer.write_tensor("w", &[0; 68]).unwrap();
    let unfinished = message(writer.finish());
    assert!(unfinished.contains("tensor `b` is unfinished: 0 of 12"), "{unfinished}");
    assert_eq!(std::fs::read(&path).unwrap(), b"older");
    assert_eq!(files_in(folder.path()), ["a.gguf"]);
}

#[test]
fn tensors_come_in_any_order_and_no_byte_too_many() {
    let folder = TempDir::new().unwrap();
    let (metadata, plans) = small();
    let write = |order: &[(&str, &[u8])]| {
        let path = folder.path().join("a.gguf");
        let mut writer = GgufWriter::new(&path, &metadata, &plans).unwrap();
        order.iter().for_each(|(name, chunk)| writer.write_tensor(name, chunk).unwrap());
        writer.finish().unwrap();
        std::fs::read(path).unwrap()
    };
    let in_turn = write(&[("w", &[1; 68]), ("b", &[2; 12])]);
    assert_eq!(write(&[("b", &[2; 12]), ("w", &[1; 68])]), in_turn);
    assert_eq!(write(&[("w", &[1; 40]), ("b", &[2; 12]), ("w", &[1; 28])]), in_turn);
    let mut writer = GgufWriter::new(&folder.path().join("b.gguf"), &metadata, &plans).unwrap();
    assert!(message(writer.write_tensor("w", &[0; 69])).contains("has 68 bytes, but 69 came"));
    assert!(message(writer.write_tensor("c", &[0])).contains("not in the header: `c`"));
}

#[test]
fn plans_that_llama_cpp_would_refuse_are_refused() {
    let refused = |plans: &[TensorPlan]| message(file_size(&Metadata::new(), plans));
    assert!(refused(&[plan(&"n".repeat(64), &[1], GgmlType::F32)]).contains("64 bytes"));
    assert!(refused(&[plan("w", &[100], GgmlType::Q4_K)]).contains("Q4_K cannot store"));
    assert!(refused(&[plan("w", &[], GgmlType::F32)]).contains("0 dimensions"));
    let twice = plan("w", &[1], GgmlType::F32);
    assert!(refused(&[twice.clone(), twice]).contains("duplicate tensor name: `w`"));
}

#[test]
fn values_of_fixed_size_can_be_patched_late() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    let (mut metadata, plans) = small();
    metadata.set("dq_gpu.kld", 0.0f32);
    let mut writer = GgufWriter::new(&path, &metadata, &plans).unwrap();
    for (start, plan) in plans.iter().enumerate() {
        writer.write_tensor(&plan.name, &content(start, plan)).unwrap();
    }
    assert!(message(writer.patch("dq_gpu.kld", Value::F64(1.0))).contains("another type"));
    assert!(message(writer.patch("general.architecture", "qwen3".into())).contains("fixed size"));
    writer.patch("dq_gpu.kld", Value::F32(0.25)).unwrap();
    writer.finish().unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.metadata.f32("dq_gpu.kld"), Some(0.25));
    assert_eq!(file.metadata.u32("a"), Some(7));
    assert_eq!(file.data(&file.tensors[1]).unwrap(), content(1, &plans[1]));
}

#[test]
fn a_folder_that_cannot_be_written_is_one_sentence() {
    let folder = TempDir::new().unwrap();
    let (metadata, plans) = small();
    let missing = folder.path().join("no/a.gguf");
    let text = message(GgufWriter::new(&missing, &metadata, &plans));
    assert!(text.contains("folder of the output does not exist") && text.contains("no/a.gguf"), "{text}");
    assert!(message(GgufWriter::new(folder.path(), &metadata, &plans)).contains("is a folder"));
}

#[test]
fn metadata_keep_their_order() {
    let mut metadata: Metadata =
        [("a", 1u32), ("b", 2), ("c", 3)].map(|(key, value)| (key.into(), value.into())).into_iter().collect();
    metadata.set("b", 5i64);
    metadata.remove("a");
    metadata.set("d", "x");
    let keys: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["b", "c", "d"]);
    assert_eq!((metadata.u32("b"), metadata.u32("c"), metadata.str("d")), (Some(5), Some(3), Some("x")));
    metadata.set("b", -1i32);
    assert_eq!(metadata.u32("b"), None);
    assert!(message(metadata.require_u32("b")).contains("`b`"));
    assert!(message(metadata.require_u32("z")).contains("missing: `z`"));
}

#[test]
fn summaries_count_true_bits() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.gguf");
    let (metadata, plans) = small();
    let size = write(&path, &metadata, &plans);
    let summary = GgufFile::open(&path).unwrap().summary();
    assert_eq!((summary.elements, summary.tensor_bytes, summary.file_bytes), (67, 80, size));
    assert_eq!(summary.bpw, 80.0 * 8.0 / 67.0);
    let types: Vec<_> = summary.types.iter().map(|row| (row.ty, row.tensors, row.bytes, row.bpw)).collect();
    assert_eq!(types, [(GgmlType::Q8_0, 1, 68, 8.5), (GgmlType::F32, 1, 12, 32.0)]);
}
