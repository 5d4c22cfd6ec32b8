//! Outputs that are no files, twice the same, inputs, without room or without a reader.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// F16, tied, 2 layers: made in a moment.
pub const SMALL: &str = "tests/fixtures/models/llama-tied";
pub const QUICK: [&str; 6] = ["--device", "cpu", "--ctx", "64", "--chunks", "2"];

pub fn dq_gpu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dq-gpu"));
    command.args(args);
    command
}

/// `quantize` of the small model.
pub fn quantize(output: &str, options: &[&str]) -> Command {
    dq_gpu(&[&["quantize", SMALL, "-o", output], &QUICK[..], options].concat())
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

/// The one line that a command fails with.
pub fn failure(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!((status.code(), stdout.as_ref()), (Some(1), ""), "{command:?}: {stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{command:?}: {stderr}");
    stderr.into_owned()
}

pub fn success(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every command with an output, and every flag that names one.
fn writers<'a>(model: &'a str, output: &'a str, other: &'a str) -> Vec<Vec<&'a str>> {
    vec![
        vec!["quantize", model, "--bpw", "4", "-o", output],
        vec!["imatrix", model, "-o", output],
        vec!["imatrix", "--merge", model, "-o", output],
        vec!["analyze", model, "-o", output],
        vec!["plan", model, "--bpw", "4", "-o", output],
        vec!["plan", model, "--bpw", "4", "-o", other, "--tensor-types", output],
    ]
}

#[test]
fn what_is_no_file_stays_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (model, other) = (at("model"), at("other"));
    fs::write(&model, "x").unwrap();
    let made = Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("pipe", at("link")).unwrap();
    symlink("/dev/null", at("null")).unwrap();
    let before = names(folder.path());
    for (name, what) in [
        ("pipe", "the output is a pipe"),
        ("socket", "the output is a socket"),
        ("link", "the output is a pipe"),
        ("null", "the output is a device"),
        ("folder", "the output is a folder"),
    ] {
        for args in writers(text(&model), text(&at(name)), text(&other)) {
            let message = failure(dq_gpu(&args));
            assert!(message.contains(what) && message.contains(name), "{args:?}: {message}");
        }
    }
    for args in writers(text(&model), "/dev/null", text(&other)) {
        let message = failure(dq_gpu(&args));
        assert!(message.contains("`/dev/null`: the output is a device"), "{args:?}: {message}");
    }
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(names(folder.path()), before);
}

#[test]
fn a_link_leads_to_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("store")).unwrap();
    symlink("store/real.gguf", at("link.gguf")).unwrap();
    success(quantize(text(&at("link.gguf")), &["--pure", "Q8_0"]));
    assert!(fs::symlink_metadata(at("link.gguf")).unwrap().is_symlink());
    assert_eq!(names(&at("store")), ["real.gguf"]);
    assert_eq!(&fs::read(at("store/real.gguf")).unwrap()[..4], b"GGUF");
}

/// Every kind of file that a command writes.
#[test]
fn files_have_the_mode_of_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name)).to_owned();
    let [imatrix, legacy, analysis, plan, types, model] =
        ["i.gguf", "i.dat", "a.json", "p.json", "t.txt", "m.gguf"].map(at);
    let work = at("work");
    for args in [
        [&["imatrix", SMALL, "-o", &imatrix][..], &QUICK].concat(),
        vec!["imatrix", "--merge", &imatrix, "-o", &legacy],
        [&["analyze", SMALL, "-o", &analysis, "--types", "Q4_0,Q8_0", "--work", &work][..], &QUICK].concat(),
        vec!["plan", &analysis, "--bpw", "6", "-o", &plan, "--tensor-types", &types],
        [&["quantize", SMALL, "--pure", "Q8_0", "-o", &model][..], &QUICK].concat(),
    ] {
        let mut command = dq_gpu(&args);
        // SAFETY: umask may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::umask(0o026);
                Ok(())
            });
        }
        success(command);
    }
    let kept = fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert!(kept.len() > 2, "{kept:?}");
    let files = [imatrix, legacy, analysis, plan, types, model].map(Into::into);
    for file in kept.iter().chain(&files).filter(|file| file.is_file()) {
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o640, "{}", file.display());
    }
}

#[test]
fn one_file_is_not_two_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("analysis"), "x").unwrap();
    fs::create_dir(at("in")).unwrap();
    let plan = |output: &Path, types: &Path| {
        failure(dq_gpu(&[
            "plan",
            text(&at("analysis")),
            "--bpw",
            "4",
            "-o",
            text(output),
            "--tensor-types",
            text(types),
        ]))
    };
    for (a, b) in [("a", "./a"), ("a", "in/../a")] {
        let message = plan(&at(a), &at(b));
        assert!(message.contains("two outputs "), "{message}");
    }
    symlink("a", at("link")).unwrap();
    assert!(plan(&at("link"), &at("a")).contains("two outputs are one file"));
    fs::write(at("old"), "old").unwrap();
    fs::hard_link(at("old"), at("hard")).unwrap();
    assert!(plan(&at("hard"), &at("old")).contains("two outputs are one file"));
    // the folder that the names go into holds a link from one to the other
    symlink("llama-tied-Q8_0.gguf", at("in/llama-tied-Q4_0.gguf")).unwrap();
    let message = failure(quantize(text(&at("in")), &["--pure", "Q4_0,Q8_0"]));
    assert!(message.contains("two outputs are one file"), "{message}");
}

#[test]
fn inputs_and_their_shards_are_not_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "text.txt"] {
        fs::write(at(name), name).unwrap();
    }
    fs::create_dir(at("blobs")).unwrap();
    fs::create_dir(at("snapshot")).unwrap();
    fs::write(at("blobs/abc"), "weights").unwrap();
    symlink("../blobs/abc", at("snapshot/model.safetensors")).unwrap();
    fs::hard_link(at("text.txt"), at("hard.gguf")).unwrap();
    let refuses = |model: &str, output: &str| {
        let model = at(model);
        for args in writers(text(&model), text(&at(output)), text(&at("other"))) {
            // a merged file may be replaced by the sum
            if !args.contains(&"--merge") {
                let message = failure(dq_gpu(&args));
                assert!(message.contains("the output would overwrite the input"), "{args:?}: {message}");
            }
        }
    };
    refuses("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    refuses("snapshot", "blobs/abc");
    refuses("snapshot", "snapshot/model.safetensors");
    let calibration = ["quantize", SMALL, "--bpw", "4", "--calibration", text(folder.path()), "-o"];
    let message = failure(dq_gpu(&[&calibration[..], &[text(&at("hard.gguf"))]].concat()));
    assert!(message.contains("the output would overwrite the input"), "{message}");
    assert_eq!(fs::read(at("blobs/abc")).unwrap(), b"weights");
}

#[test]
fn names_and_folders_are_looked_at_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("model"), "x").unwrap();
    for (output, part) in
        [("n".repeat(256), "too long"), ("none/out".into(), "the folder of the output does not exist")]
    {
        for args in writers(text(&at("model")), text(&at(&output)), text(&at("other"))) {
            let message = failure(dq_gpu(&args));
            assert!(message.contains(part), "{args:?}: {message}");
        }
    }
    // the longest name that the system has
    let longest = format!("{}.gguf", "n".repeat(250));
    success(quantize(text(&at(&longest)), &["--pure", "Q8_0"]));
    assert_eq!(names(folder.path()), ["model", &longest]);
    let message = failure(quantize(text(&at("out")), &["--pure", "Q8_0", "--work", text(&at("out"))]));
    assert!(message.contains("the output and the work folder are the same"), "{message}");
    if !is_root() {
        let closed = at("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        let message = failure(quantize(text(&closed.join("out.gguf")), &["--pure", "Q8_0"]));
        assert!(message.contains("cannot write into the folder of the output"), "{message}");
    }
}

fn is_root() -> bool {
    // SAFETY: only asks.
    unsafe { libc::geteuid() == 0 }
}

/// Every write of every command fails at some limit: one sentence, and nothing under the final name.
#[test]
fn a_full_disk_leaves_no_half_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name)).to_owned();
    let analysis = at("analysis.json");
    success(dq_gpu(&[&["analyze", SMALL, "-o", &analysis, "--types", "Q4_0,Q8_0"], &QUICK[..]].concat()));
    let output = at("out");
    let work = tempfile::tempdir().unwrap();
    let jobs = [
        [&["quantize", SMALL, "--pure", "Q8_0", "-o", &output, "--work", text(work.path())][..], &QUICK].concat(),
        [&["quantize", SMALL, "--pure", "Q8_0", "-o", &output][..], &QUICK].concat(),
        [&["quantize", SMALL, "--bpw", "6", "--types", "Q4_0,Q8_0", "-o", &output][..], &QUICK].concat(),
        [&["imatrix", SMALL, "-o", &output][..], &QUICK].concat(),
        [&["imatrix", SMALL, "-o", &output, "--format", "dat"][..], &QUICK].concat(),
        [&["analyze", SMALL, "--types", "Q4_0", "-o", &output][..], &QUICK].concat(),
        vec!["plan", &analysis, "--bpw", "6", "-o", &output],
    ];
    for args in &jobs {
        let mut failures = 0;
        for limit in [0, 700, 5_000, 20_000, 60_000] {
            let mut command = dq_gpu(args);
            command.args(["--quiet", "--json"]);
            // SAFETY: both may be called between fork and exec.
            unsafe {
                command.pre_exec(move || {
                    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                    libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
                    // then a write past the limit is an error, as on a full disk
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    Ok(())
                });
            }
            let made = command.output().unwrap();
            let errors = String::from_utf8_lossy(&made.stderr);
            if made.status.success() {
                fs::remove_file(&output).unwrap();
            } else {
                failures += 1;
                assert_eq!(made.status.code(), Some(1), "{args:?} {limit}: {errors}");
                assert!(errors.starts_with("error: ") && errors.lines().count() == 1, "{args:?} {limit}: {errors}");
                assert!(errors.contains("cannot ") && errors.contains("File too large"), "{args:?}: {errors}");
            }
            assert_eq!(names(folder.path()), ["analysis.json"], "{args:?} {limit}");
        }
        assert!(failures > 0, "{args:?} never failed");
    }
}

/// A reader of the results that goes, or a full disk behind it, costs no file.
#[test]
fn lost_streams_cost_no_file() {
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name)).to_owned();
    let targets = ["--pure", "Q4_0,Q8_0", "-v"];
    let made = |mut command: Command, code: i32, what: &str| {
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{what}: {errors}");
        assert_eq!(names(folder.path()), ["Q4_0.gguf", "Q8_0.gguf"], "{what}");
        for name in names(folder.path()) {
            fs::remove_file(at(&name)).unwrap();
        }
        errors.into_owned()
    };
    let with = |stdout: Option<Stdio>, stderr: Option<Stdio>| {
        let mut command = quantize(&at("{target}.gguf"), &targets);
        if let Some(stdout) = stdout {
            command.stdout(stdout);
        }
        if let Some(stderr) = stderr {
            command.stderr(stderr);
        }
        command
    };
    made(with(Some(gone()), None), 0, "no reader of stdout");
    made(with(None, Some(gone())), 0, "no reader of stderr");
    made(with(None, Some(full())), 0, "a full stderr");
    made(with(Some(gone()), Some(gone())), 0, "no reader at all");
    let errors = made(with(Some(full()), None), 1, "a full stdout");
    assert!(
        errors.ends_with("error: cannot write the result to stdout: No space left on device (os error 28)\n"),
        "{errors}"
    );
    made(with(Some(full()), Some(full())), 1, "nothing but full");

    // errors and help without a reader end as they would with one
    for (args, code) in [(&["--help"][..], 0), (&["inspect", "none"], 1), (&["dance"], 2)] {
        let mut command = dq_gpu(args);
        command.stdout(gone()).stderr(gone());
        assert_eq!(command.status().unwrap().code(), Some(code), "{args:?}");
    }
}
