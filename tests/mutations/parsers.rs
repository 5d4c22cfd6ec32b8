//! Every parser of the program with what must hold of whatever it accepts. Shared with the targets in `fuzz/`.
#![allow(dead_code, reason = "the tests, the fuzzer and its seeds each need a part")]

use std::fs;
use std::path::{Path, PathBuf};

use dq_gpu::calibration::{self, ChatTemplate, Message};
use dq_gpu::gguf::GgufFile;
use dq_gpu::imatrix::{Entry, Imatrix};
use dq_gpu::kld::{LogitsFile, LogitsWriter};
use dq_gpu::pipeline::checkpoint::Checkpoints;
use dq_gpu::pipeline::{bare_analysis, output_metadata};
use dq_gpu::plan::{Analysis, Candidate, Constraints, Plan, Target, solve};
use dq_gpu::quant::GgmlType;
use dq_gpu::source::Model;
use dq_gpu::tokenizer::Tokenizer;

/// What a parser is called, the file that it reads, and how to run it on one.
pub struct Parser {
    pub name: &'static str,
    /// Below the folder of [`Bench`].
    file: &'static str,
    parse: fn(&Bench, &Path),
}

/// Every parser that reads what others made.
pub const PARSERS: &[Parser] = &[
    Parser { name: "gguf", file: "model.gguf", parse: |_, file| gguf(file) },
    Parser { name: "imatrix_gguf", file: "imatrix.gguf", parse: |_, file| imatrix(file) },
    Parser { name: "imatrix_legacy", file: "imatrix.dat", parse: |_, file| imatrix(file) },
    Parser { name: "safetensors", file: "sharded/model-00002-of-00003.safetensors", parse: |_, file| folder(file) },
    Parser { name: "index", file: "sharded/model.safetensors.index.json", parse: |_, file| folder(file) },
    Parser { name: "config", file: "sharded/config.json", parse: |_, file| folder(file) },
    Parser { name: "tokenizer", file: "sharded/tokenizer.json", parse: |_, file| tokenizer(file) },
    Parser { name: "tokenizer_config", file: "sharded/tokenizer_config.json", parse: |_, file| tokenizer(file) },
    Parser { name: "template", file: "template.jinja", parse: |_, file| template(file) },
    Parser { name: "calibration_json", file: "text.jsonl", parse: |_, file| text(file) },
    Parser { name: "calibration_text", file: "text.txt", parse: |_, file| text(file) },
    Parser { name: "analysis", file: "analysis.json", parse: |_, file| analysis(file) },
    Parser { name: "plan", file: "plan.json", parse: |bench, file| plan(file, &bench.analysis) },
    Parser { name: "checkpoint", file: "checkpoint.msgpack", parse: |bench, file| checkpoint(bench, file) },
    Parser { name: "logits", file: "base.logits", parse: |_, file| logits(file) },
];

/// A folder with a good file for every parser.
pub struct Bench {
    folder: tempfile::TempDir,
    analysis: Analysis,
}

impl Bench {
    pub fn new(fixtures: &Path) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sharded")).unwrap();
        for entry in fs::read_dir(fixtures.join("models/llama-sharded")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), at("sharded").join(entry.file_name())).unwrap();
        }
        let model = Model::open(&at("sharded")).unwrap();
        write_gguf(&model, &at("model.gguf"));
        let imatrix = sample_imatrix(&model);
        imatrix.write_gguf(&at("imatrix.gguf")).unwrap();
        imatrix.write_dat(&at("imatrix.dat")).unwrap();
        let analysis = sample_analysis(&model);
        analysis.write(&at("analysis.json")).unwrap();
        let plan = solve(&analysis, &Target::Pure(GgmlType::Q8_0), &Constraints::default()).unwrap();
        plan.write(&at("plan.json")).unwrap();
        fs::write(at("template.jinja"), TEMPLATE).unwrap();
        fs::write(at("text.jsonl"), DOCUMENTS).unwrap();
        fs::write(at("text.txt"), "To be, or not to be: that is the question.\r\n\u{feff}Ende.\n").unwrap();
        fs::write(at("checkpoint.msgpack"), rmp_serde::to_vec_named(&imatrix).unwrap()).unwrap();
        write_logits(&at("base.logits"));
        Bench { folder, analysis }
    }

    /// The good file of a parser.
    pub fn seed(&self, parser: &Parser) -> Vec<u8> {
        fs::read(self.folder.path().join(parser.file)).unwrap()
    }

    /// Runs a parser on `bytes` in place of its file.
    pub fn run(&self, parser: &Parser, bytes: &[u8]) {
        let path = self.folder.path().join(parser.file);
        fs::write(&path, bytes).unwrap();
        (parser.parse)(self, &path);
    }

    /// Puts a good file back.
    pub fn restore(&self, parser: &Parser, seed: &[u8]) {
        fs::write(self.folder.path().join(parser.file), seed).unwrap();
    }
}

const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}\
{{ raise_exception('no system messages') }}{% endif %}<|{{ message.role }}|>{{ message['content'] | trim }}{% endfor %}";

const DOCUMENTS: &str = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
{"text": "Once upon a time", "domain": "prose"}
{"prompt": "2 + 2", "response": "4", "system": "Count."}
{"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]}
"#;

fn write_gguf(model: &Model, path: &Path) {
    use dq_gpu::gguf::{GgufWriter, TensorPlan};
    let plans: Vec<TensorPlan> = model
        .tensors
        .iter()
        .map(|tensor| TensorPlan { name: tensor.name.clone(), dims: tensor.dims.clone(), ty: tensor.ty })
        .collect();
    let mut writer = GgufWriter::new(path, &model.metadata, &plans).unwrap();
    for tensor in &model.tensors {
        writer.write_tensor(&tensor.name, &model.bytes(tensor).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

fn sample_imatrix(model: &Model) -> Imatrix {
    let entries = model.tensors.iter().filter(|tensor| tensor.rows > 1).map(|tensor| {
        let sum2 = (0..tensor.cols).map(|column| 1.0 + column as f64).collect();
        (tensor.name.clone(), Entry { sum2, sum: None, counts: vec![64.0] })
    });
    Imatrix {
        entries: entries.collect(),
        datasets: vec!["a book".into()],
        chunk_count: 1,
        chunk_size: 64,
        ..Imatrix::default()
    }
}

fn sample_analysis(model: &Model) -> Analysis {
    let metadata = output_metadata(model, None, &Default::default(), None);
    let mut analysis = bare_analysis(model, &metadata, "0123").unwrap();
    for tensor in analysis.tensors.iter_mut().filter(|tensor| tensor.quantizable) {
        let sized = [(GgmlType::Q4_0, 2.0), (GgmlType::Q8_0, 1.0)];
        let sized = sized.map(|(ty, error)| Some((ty, tensor.bytes_as(ty)?, error)));
        let candidate = |(ty, bytes, error)| Candidate { ty, bytes, error, predicted: error / 1e3 };
        tensor.candidates = sized.into_iter().flatten().map(candidate).collect();
    }
    analysis
}

fn write_logits(path: &Path) {
    let mut writer = LogitsWriter::create(path, 8, 5, &[0, 1, 2, 3, 4, 3, 2, 1]).unwrap();
    for row in 0..3 {
        writer.row(&[0.0, 1.0, -2.5, row as f32, f32::NEG_INFINITY]).unwrap();
    }
    writer.finish().unwrap();
}

fn file_bytes(path: &Path) -> usize {
    fs::metadata(path).unwrap().len() as usize
}

fn gguf(path: &Path) {
    let Ok(file) = GgufFile::open(path) else { return };
    let mut bytes = 0;
    for tensor in &file.tensors {
        let data = file.data(tensor).expect("the file is as it was");
        assert_eq!(data.len() as u64, tensor.bytes, "{}", tensor.name);
        bytes += data.len();
    }
    let summary = file.summary();
    assert_eq!((summary.file_bytes, summary.tensors.len()), (file_bytes(path) as u64, file.tensors.len()));
    assert!(bytes <= file_bytes(path) || overlap(&file), "tensors of {bytes} bytes in a smaller file");
    drop(file);
    if let Ok(model) = Model::open(path) {
        check_model(&model);
        if let Ok(tokenizer) = Tokenizer::from_gguf(&model.metadata) {
            check_tokenizer(&tokenizer);
        }
    }
}

/// Whether two tensors of a file share bytes, which no rule of the format forbids.
fn overlap(file: &GgufFile) -> bool {
    let mut places: Vec<(u64, u64)> = file.tensors.iter().map(|t| (t.offset, t.offset + t.bytes)).collect();
    places.sort_unstable();
    places.windows(2).any(|pair| pair[1].0 < pair[0].1)
}

fn check_model(model: &Model) {
    for tensor in &model.tensors {
        let Ok(bytes) = model.bytes(tensor) else { continue };
        assert_eq!(bytes.len() as u64, tensor.ty.bytes_for(tensor.elements()), "{}", tensor.name);
        let rows = 0..tensor.rows.min(2);
        if let Ok(values) = model.f32_rows(tensor, rows.clone()) {
            assert_eq!(values.len(), rows.len() * tensor.cols, "{}", tensor.name);
            assert!(values.iter().all(|value| value.is_finite()), "{}", tensor.name);
        }
    }
}

fn imatrix(path: &Path) {
    let Ok(imatrix) = Imatrix::read(path) else { return };
    imatrix.validate().unwrap();
    let values: usize = imatrix.entries.values().map(|entry| entry.sum2.len() + entry.counts.len()).sum();
    assert!(values <= file_bytes(path) / 2, "{values} values");
    for (name, entry) in &imatrix.entries {
        assert_eq!(imatrix.mean2(name).unwrap().len(), entry.sum2.len());
    }
}

fn folder(file: &Path) {
    if let Ok(model) = Model::open(file.parent().unwrap()) {
        check_model(&model);
    }
}

fn tokenizer(file: &Path) {
    if let Ok(tokenizer) = Tokenizer::from_hf(file.parent().unwrap()) {
        check_tokenizer(&tokenizer);
        if let Ok(template) = ChatTemplate::new(&tokenizer) {
            render(&template);
        }
    }
}

fn check_tokenizer(tokenizer: &Tokenizer) {
    for text in ["Hello, wörld! 12345\n\t<s>", "", "模型\u{0}\u{1f642}"] {
        let Ok(ids) = tokenizer.encode(text, true, true) else { continue };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{ids:?}");
        tokenizer.decode(&ids);
    }
}

fn template(file: &Path) {
    let Ok(source) = fs::read_to_string(file) else { return };
    if let Ok(template) = ChatTemplate::from_source(Some(&source), "<s>", "</s>") {
        render(&template);
    }
}

fn render(template: &ChatTemplate) {
    let messages = [("system", "Be brief."), ("user", "Hi \u{1b}[0m"), ("assistant", "Hello.")];
    let messages = messages.map(|(role, content)| Message::new(role, content));
    let all = template.render(&messages);
    let least = template.render(&messages[1..2]);
    // a template gives the same text whenever it is asked
    assert_eq!((all.ok(), least.ok()), (template.render(&messages).ok(), template.render(&messages[1..2]).ok()));
}

fn text(file: &Path) {
    let template = ChatTemplate::from_source(None, "", "").unwrap();
    if let Ok(documents) = calibration::load(&[PathBuf::from(file)], &template) {
        assert!(!documents.is_empty() && documents.iter().all(|document| !document.text.trim().is_empty()));
    }
}

fn analysis(file: &Path) {
    let Ok(analysis) = Analysis::read(file) else { return };
    analysis.validate().unwrap();
    for target in [Target::Pure(GgmlType::Q4_0), Target::Bpw(6.0), Target::Size(100_000), Target::MaxKld(0.01)] {
        if let Ok(plan) = solve(&analysis, &target, &Constraints::default()) {
            let budget = if let Target::Size(bytes) = target { bytes } else { u64::MAX };
            assert!(plan.bytes <= budget && plan.predicted_kld.is_none_or(f64::is_finite), "{target:?}");
        }
    }
}

fn plan(file: &Path, analysis: &Analysis) {
    let Ok(plan) = Plan::read(file, analysis) else { return };
    let known = analysis.quantizable().map(|tensor| tensor.name.as_str());
    assert!(known.into_iter().all(|name| plan.ty(name).is_some()), "a tensor has no type");
}

/// With the hash that a kept file ends with, so that the content is looked at.
fn checkpoint(bench: &Bench, file: &Path) {
    let content = fs::read(file).unwrap();
    let work = bench.folder.path().join("work");
    let checkpoints = Checkpoints::open(&work).unwrap();
    let key = checkpoints.key();
    let kept = || {
        let files = fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "msgpack"))
    };
    let fresh = Imatrix { chunk_count: 77, ..Imatrix::default() };
    if kept().is_none() {
        checkpoints.step("importance", &key, || Ok(fresh.clone())).unwrap();
    }
    let path = kept().unwrap();
    fs::write(&path, [&content[..], blake3::hash(&content).as_bytes()].concat()).unwrap();
    let read = checkpoints.step("importance", &key, || Ok(fresh.clone())).unwrap();
    let expected = rmp_serde::from_slice::<Imatrix>(&content).unwrap_or(fresh);
    // two NaN are not equal
    assert_eq!(format!("{read:?}"), format!("{expected:?}"));
}

fn logits(path: &Path) {
    let Ok(file) = LogitsFile::open(path) else { return };
    assert!(file.tokens().iter().all(|&token| (token as usize) < file.n_vocab()));
    let mut row = vec![0.0; file.n_vocab()];
    for chunk in 0..file.n_chunk() {
        for place in 0..file.rows_per_chunk() {
            file.log_probs(chunk, place, &mut row);
            assert!((file.target(chunk, place) as usize) < file.n_vocab());
        }
    }
}
