//! A job that was stopped goes on from what `--work` keeps, and ends with the file that it would have made at once.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

const MODEL: &str = "models/tiny-llama";

/// `quantize` of a trained model with little text.
fn quantize(output: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("dq-gpu"));
    command
        .args(["quantize", MODEL, "--device", "cpu", "--ctx", "64", "--chunks", "12", "-o"])
        .arg(output)
        .args(options);
    command
}

fn finish(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    errors
}

/// Files of rounded tensors in a work folder.
fn rounded(work: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(work).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = folders.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("rounded-"));
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    // not those being written
    files.filter(|path| path.extension().is_some_and(|extension| extension == "bin")).collect()
}

/// Sends `signal` when at least `count` tensors are rounded.
fn stop(mut child: Child, work: &Path, count: usize, signal: &str) -> Output {
    while rounded(work).len() < count {
        assert!(child.try_wait().unwrap().is_none(), "the job ended before it could be stopped");
        sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

fn start(mut command: Command) -> Child {
    command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_job_that_was_stopped_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (work, output) = (folder.path().join("work"), folder.path().join("resumed.gguf"));
    let options = ["--pure", "Q3_K", "--work", work.to_str().unwrap()];

    // a power cut
    stop(start(quantize(&output, &options)), &work, 3, "-KILL");
    let first = rounded(&work).len();
    assert!(!output.exists());

    // Ctrl-C
    let stopped = stop(start(quantize(&output, &options)), &work, first + 8, "-INT");
    let errors = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(130), "{errors}");
    assert!(errors.contains("the same command goes on from there"), "{errors}");
    let second = rounded(&work).len();
    assert!(second < 57 && !output.exists());

    let errors = finish(quantize(&output, &options));
    assert!(errors.contains(&format!("rounding, {second} of 58 kept")), "{second} tensors were kept: {errors}");
    assert!(rounded(&work).is_empty(), "rounded tensors stay in the work folder");

    let whole = folder.path().join("whole.gguf");
    finish(quantize(&whole, &options[..2]));
    assert!(fs::read(&whole).unwrap() == fs::read(&output).unwrap(), "the resumed file is another one");
}

#[test]
fn other_targets_start_from_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().join("work");
    let (first, second) = (folder.path().join("first.gguf"), folder.path().join("second.gguf"));
    let types = ["--types", "Q3_K,Q5_K", "-v"];
    let known = ["--work", work.to_str().unwrap()];
    finish(quantize(&first, &[&["--bpw", "5"], &types[..], &known].concat()));

    let errors = finish(quantize(&second, &[&["--bpw", "4.5"], &types[..], &known].concat()));
    for step in ["importance", "sensitivities", "analysis"] {
        assert!(errors.contains(&format!("work/{step}-")), "{step} was made again: {errors}");
    }
    let whole = folder.path().join("whole.gguf");
    finish(quantize(&whole, &[&["--bpw", "4.5"], &types[..]].concat()));
    assert!(fs::read(&whole).unwrap() == fs::read(&second).unwrap(), "another file is made from what was kept");

    // another seed: what depends on it is found anew
    let errors = finish(quantize(&second, &[&["--bpw", "4.5", "--seed", "1"], &types[..], &known].concat()));
    assert!(errors.contains("work/importance-") && !errors.contains("work/sensitivities-"), "{errors}");
}

#[test]
fn a_work_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let output = folder.path().join("out.gguf");
    let work = file.join("work");
    let failed = quantize(&output, &["--bpw", "4", "--work", work.to_str().unwrap()]).output().unwrap();
    let errors = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{errors}");
    assert!(errors.contains("cannot make the work folder") && errors.contains(work.to_str().unwrap()), "{errors}");
}
