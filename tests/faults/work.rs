//! The folder of `--work`: what a kept step depends on, and who may use it.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dq_gpu::gguf::{GgufFile, GgufWriter, TensorPlan, Value};
use dq_gpu::pipeline::checkpoint::Checkpoints;

use super::outputs::{QUICK, dq_gpu, failure, names, quantize, success, text};

#[test]
fn a_folder_in_use_is_left_to_its_job() {
    let folder = tempfile::tempdir().unwrap();
    let (work, output) = (folder.path().join("work"), folder.path().join("out.gguf"));
    let other = Checkpoints::open(&work).unwrap();
    let job = || quantize(text(&output), &["--pure", "Q8_0", "--quiet", "--work", text(&work)]);
    let message = failure(job());
    let expected =
        format!("error: another job uses the work folder: `{}` (process {}: ", text(&work), std::process::id());
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!((names(folder.path()), names(&work)), (vec!["work".to_owned()], vec!["lock".to_owned()]));
    drop(other);
    success(job());
}

/// A model in two files, as llama-gguf-split makes them.
fn split(whole: &Path, folder: &Path) -> [PathBuf; 2] {
    let file = GgufFile::open(whole).unwrap();
    let half = file.tensors.len() / 2;
    let paths = [1, 2].map(|number| folder.join(format!("m-{number:05}-of-00002.gguf")));
    for (number, (path, tensors)) in paths.iter().zip([&file.tensors[..half], &file.tensors[half..]]).enumerate() {
        let mut metadata = if number == 0 { file.metadata.clone() } else { Default::default() };
        metadata.set("split.no", Value::U16(number as u16));
        metadata.set("split.count", Value::U16(2));
        metadata.set("split.tensors.count", Value::I32(file.tensors.len() as i32));
        let plans = tensors.iter().map(|t| TensorPlan { name: t.name.clone(), dims: t.dims.clone(), ty: t.ty });
        let mut writer = GgufWriter::new(path, &metadata, &plans.collect::<Vec<_>>()).unwrap();
        for tensor in tensors {
            writer.write_tensor(&tensor.name, &file.data(tensor).unwrap()).unwrap();
        }
        writer.finish().unwrap();
    }
    paths
}

/// A change anywhere in a split model, also back in time, makes all steps anew.
#[test]
fn every_part_of_a_split_model_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    success(quantize(text(&at("whole.gguf")), &["--pure", "F32"]));
    let parts = split(&at("whole.gguf"), folder.path());
    let work = at("work");
    let run = || {
        let args =
            ["quantize", text(&parts[0]), "--pure", "Q8_0", "-v", "--work", text(&work), "-o", text(&at("out.gguf"))]
                .map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(QUICK).collect();
        let output = dq_gpu(&args).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{errors}");
        errors.contains("kept from an earlier run")
    };
    assert_eq!([run(), run()], [false, true]);
    let part = fs::File::options().write(true).open(&parts[1]).unwrap();
    for seconds in [1_000_000_000, 2_000_000_000] {
        part.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        assert_eq!([run(), run()], [false, true], "changed at {seconds}");
    }
}
