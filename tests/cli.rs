//! The command line from outside: help, usage errors, and clear failures.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::{contains, starts_with};

const COMMANDS: [&str; 7] = ["quantize", "imatrix", "analyze", "plan", "kld", "inspect", "devices"];

fn dq_gpu(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    command.args(args);
    command
}

/// One line on stderr that starts with `error: ` and holds `part`; nothing on stdout; exit code 1.
fn fails_with(args: &[&str], part: &str) {
    let one_line = predicate::function(|text: &str| text.ends_with('\n') && text.lines().count() == 1);
    let message = starts_with("error: ").and(contains(part)).and(one_line);
    dq_gpu(args).assert().code(1).stdout("").stderr(message);
}

/// Exit code 2 and a message with `part`.
fn is_misuse(args: &[&str], part: &str) {
    dq_gpu(args).assert().code(2).stdout("").stderr(contains(part));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn help_names_every_command() {
    let mut assert = dq_gpu(&["--help"]).assert().success().stdout(contains("Examples:"));
    for command in COMMANDS {
        assert = assert.stdout(contains(format!("\n  {command} ")));
    }
}

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        let example = format!("Examples:\n  dq-gpu {command}");
        let usage = format!("Usage: dq-gpu {command}");
        dq_gpu(&[command, "--help"]).assert().success().stdout(contains(example).and(contains(usage)));
        dq_gpu(&[command, "--help"]).assert().success().stdout(contains("--json").and(contains("--quiet")));
    }
}

#[test]
fn misuse_exits_with_2() {
    is_misuse(&[], "Usage:");
    is_misuse(&["dance"], "unrecognized subcommand");
    is_misuse(&["quantize", "model"], "--size");
    is_misuse(&["quantize", "--bpw", "4.5"], "<MODEL>");
    is_misuse(&["quantize", "model", "--bpw", "4.5", "--size", "1GiB"], "cannot be used with");
    is_misuse(&["quantize", "model", "--type", "Q4_K_M", "--plan", "plan.json"], "cannot be used with");
    is_misuse(&["quantize", "model", "--plan", "plan.json", "--keep", "x=Q4_K"], "cannot be used with");
    is_misuse(&["quantize", "model", "--type", "Q4_K_M", "--types", "Q4_K"], "cannot be used with");
    is_misuse(&["quantize", "model", "--vram", "8GiB", "--like", "x.gguf"], "cannot be used with");
    is_misuse(&["plan", "a.json", "-o", "plan.json"], "--bpw");
    is_misuse(&["plan", "a.json", "-o", "plan.json", "--plan", "x"], "unexpected argument");
    is_misuse(&["imatrix", "-o", "x.gguf"], "MODEL");
    is_misuse(&["devices", "--quiet", "-v"], "cannot be used with");
}

#[test]
fn bad_values_name_their_flag() {
    for (flag, value, part) in [
        ("--size", "4.7XB", "unknown unit `XB`"),
        ("--size", "5225472", "needs a unit"),
        ("--size", "0GiB", "zero"),
        ("--bpw", "-1", "--bpw"),
        ("--bpw", "many", "not a number"),
        ("--bpw", "3,", "not a number"),
        ("--vram", "8", "needs a unit"),
        ("--max-kld", "0", "more than zero"),
        ("--type", "Q9_K_M", "unknown file type"),
        ("--pure", "Q9_K", "unknown tensor type: `Q9_K`"),
    ] {
        let given = format!("{flag}={value}");
        dq_gpu(&["quantize", "model", &given]).assert().code(2).stderr(contains(part).and(contains(flag)));
    }
    for (flag, value, part) in [
        ("--keep", "output", "REGEX=TYPE"),
        ("--keep", "(=Q4_K", "unclosed group"),
        ("--types", "Q4_K,Q9_K", "unknown tensor type: `Q9_K`"),
        ("--profile", "fast", "possible values: quality, cpu, apple, compatible"),
        ("--ctx", "0", "0 is not in"),
        ("--chunks", "0", "0 is not in"),
        ("--memory", "8", "needs a unit"),
    ] {
        let args = ["quantize", "model", "--bpw", "4", flag, value];
        dq_gpu(&args).assert().code(2).stderr(contains(part).and(contains(flag)));
    }
}

#[test]
fn missing_files_are_named() {
    fails_with(&["quantize", "no/model", "--bpw", "4.5"], "cannot find the model: `no/model`");
    fails_with(&["plan", "no.json", "--like", "no.gguf", "-o", "plan.json"], "cannot find the GGUF: `no.gguf`");
    fails_with(&["imatrix", "no/model", "-o", "x.gguf"], "`no/model`");
    fails_with(&["imatrix", "--merge", "no.gguf", "-o", "x.gguf"], "`no.gguf`");
    fails_with(&["analyze", "no/model", "-o", "x.json"], "`no/model`");
    fails_with(&["plan", "no.json", "--bpw", "4", "-o", "plan.json"], "`no.json`");
    fails_with(&["kld", "no/a", "no/b"], "`no/a`");
    fails_with(&["inspect", "no.gguf"], "`no.gguf`");
}

#[test]
fn every_input_is_looked_for_before_work_begins() {
    let folder = tempfile::tempdir().unwrap();
    let model = text(folder.path());
    for (flag, what) in [("--imatrix", "importance matrix"), ("--calibration", "calibration text")] {
        let part = format!("cannot find the {what}: `no.file`");
        fails_with(&["quantize", model, "--bpw", "4", "-o", "/dev/null", flag, "no.file"], &part);
    }
    fails_with(&["quantize", model, "--plan", "no.json"], "cannot find the plan: `no.json`");
    fails_with(&["kld", model, model, "--text", "no.txt"], "cannot find the text: `no.txt`");
}

#[test]
fn an_output_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    fs::write(&model, "x").unwrap();
    let quantize =
        |output: &Path, part| fails_with(&["quantize", text(&model), "--bpw", "4", "-o", text(output)], part);
    quantize(&model, "would overwrite the input");
    quantize(folder.path(), "the output is a folder");
    fails_with(&["quantize", text(&model), "--bpw", "3,4", "-o", "x.gguf"], "several targets need a folder");
    let twice = ["quantize", text(&model), "--bpw", "4,4.0", "-o", text(folder.path())];
    fails_with(&twice, "two outputs have the same name");
    quantize(&folder.path().join("none/out.gguf"), "does not exist");
    assert_eq!(fs::read(&model).unwrap(), b"x");
}

#[test]
fn inspect_refuses_what_it_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    fails_with(&["inspect", text(&file("empty", b""))], "neither a GGUF nor a safetensors");
    fails_with(&["inspect", text(&file("text", b"once upon a time"))], "neither a GGUF nor a safetensors");
    fails_with(&["inspect", text(&file("cut.gguf", b"GGUF\x03\0\0\0"))], "cut.gguf");
    fails_with(&["inspect", text(&file("long.safetensors", b"\xff\0\0\0\0\0\0\0{}"))], "cut short");
    fails_with(&["inspect", text(&file("bad.safetensors", b"\x02\0\0\0\0\0\0\0{]"))], "the header is damaged");
    fails_with(&["inspect", text(folder.path())], "cannot read the file");
}

#[test]
fn inspect_shows_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[3,4],"data_offsets":[0,24]},"b":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}}"#;
    let mut content = (header.len() as u64).to_le_bytes().to_vec();
    content.extend_from_slice(header.as_bytes());
    content.extend_from_slice(&[0; 32]);
    fs::write(&path, &content).unwrap();
    dq_gpu(&["inspect", text(&path)]).assert().success().stdout(contains("a       BF16  3 x 4     24      16.0000"));
    let output = dq_gpu(&["inspect", text(&path), "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["elements"], 14);
    assert_eq!(json["tensors"][0]["name"], "a");
    assert_eq!(json["types"][0]["type"], "BF16");
    content.pop();
    fs::write(&path, &content).unwrap();
    fails_with(&["inspect", text(&path)], "promises");
}

#[test]
fn inspect_shows_importance_matrices_of_both_formats() {
    use dq_gpu::imatrix::{Entry, Imatrix};
    let folder = tempfile::tempdir().unwrap();
    let entry = Entry { sum2: vec![1.0, 2.0, 3.0], sum: None, counts: vec![1024.0] };
    let entries = [("blk.0.attn_q.weight".to_owned(), entry)].into();
    let imatrix =
        Imatrix { entries, datasets: vec!["book".into()], chunk_count: 2, chunk_size: 512, ..Default::default() };
    let (gguf, dat) = (folder.path().join("a.gguf"), folder.path().join("a.dat"));
    imatrix.write_gguf(&gguf).unwrap();
    imatrix.write_dat(&dat).unwrap();
    for file in [&gguf, &dat] {
        dq_gpu(&["inspect", text(file)]).assert().success().stdout(contains("blk.0.attn_q.weight        3"));
        let output = dq_gpu(&["inspect", text(file), "--json"]).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&json["chunks"], &json["datasets"][0]), (&2.into(), &"book".into()));
        assert_eq!(json["tensors"][0]["columns"], 3);
    }
    // adding a file to itself doubles the text
    let (both, gguf) = (folder.path().join("both.gguf"), text(&gguf));
    dq_gpu(&["imatrix", "--merge", gguf, gguf, "-o", text(&both)]).assert().success().stdout(contains("4 chunks"));
    assert_eq!(Imatrix::read(&both).unwrap().entries["blk.0.attn_q.weight"].counts, [2048.0]);
}

#[test]
fn devices_always_has_a_choice() {
    let output = dq_gpu(&["devices", "--json"]).output().unwrap();
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let chosen = json["devices"].as_array().unwrap().iter().filter(|device| device["chosen"] == true);
    assert_eq!(chosen.count(), 1);
    dq_gpu(&["devices"]).assert().success().stdout(contains("CPU").and(contains("why")));
}

/// A copy of the sample model that may be damaged.
fn sample_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir("models/tiny-llama").unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

/// What `quantize` says of the sample model after `damage`.
fn damaged(damage: impl Fn(&Path), part: &str) {
    let (model, out) = (sample_model(), tempfile::tempdir().unwrap());
    damage(model.path());
    let output = out.path().join("out.gguf");
    let args = ["--pure", "Q4_K", "--chunks", "1", "--device", "cpu", "--quiet", "-o", text(&output)];
    fails_with(&[&["quantize", text(model.path())][..], &args].concat(), part);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

fn replace(file: &Path, old: &str, new: &str) {
    let content = fs::read_to_string(file).unwrap();
    assert!(content.contains(old), "no `{old}` in {}", file.display());
    fs::write(file, content.replace(old, new)).unwrap();
}

#[test]
fn damaged_models_are_told_what_is_wrong() {
    damaged(|model| fs::remove_file(model.join("config.json")).unwrap(), "no config.json");
    damaged(|model| fs::remove_file(model.join("tokenizer.json")).unwrap(), "neither tokenizer.json nor");
    damaged(|model| replace(&model.join("config.json"), "LlamaForCausalLM", "MambaForCausalLM"), "`MambaForCausalLM`");
    damaged(
        |model| replace(&model.join("tokenizer.json"), r"\\p{N}| ?", r"\\p{N}{1,7}| ?"),
        "llama.cpp has no name for its pre-tokenizer",
    );
    damaged(|model| replace(&model.join("config.json"), "\"hidden_size\": 256", "\"hidden_size\": 128"), "shape");
    damaged(
        |model| {
            let file = fs::File::options().write(true).open(model.join("model.safetensors")).unwrap();
            file.set_len(file.metadata().unwrap().len() - 100).unwrap();
        },
        "model.safetensors",
    );
    damaged(
        |model| {
            fs::remove_file(model.join("model.safetensors")).unwrap();
            let index = r#"{"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}"#;
            fs::write(model.join("model.safetensors.index.json"), index).unwrap();
        },
        "model-00001-of-00002.safetensors",
    );
    damaged(
        |model| {
            let path = model.join("model.safetensors");
            let mut content = fs::read(&path).unwrap();
            let end = content.len();
            // a NaN in BF16
            content[end - 2..].copy_from_slice(&[0xc0, 0x7f]);
            fs::write(path, content).unwrap();
        },
        "NaN",
    );
}

#[test]
fn empty_calibration_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, output) = (folder.path().join("empty.txt"), folder.path().join("out.gguf"));
    fs::write(&empty, " \n").unwrap();
    let args = ["imatrix", "models/tiny-llama", "--device", "cpu", "--calibration", text(&empty), "-o", text(&output)];
    fails_with(&args, "there is no calibration text in");
}

/// One line and no progress before it: nothing has been measured.
#[test]
fn budgets_too_small_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    for (target, part) in
        [(["--size", "1MB"], "the smallest possible file has"), (["--bpw", "0.5"], "the smallest possible plan has")]
    {
        let args = ["quantize", "models/tiny-llama", "--device", "cpu", "-o", text(&output)];
        fails_with(&[&args[..], &target].concat(), part);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_truncated_gguf_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut, output) =
        (folder.path().join("whole.gguf"), folder.path().join("cut.gguf"), folder.path().join("out.gguf"));
    let model = "tests/fixtures/models/llama-tied";
    let options = ["--device", "cpu", "--ctx", "64", "--chunks", "1"];
    dq_gpu(&[&["quantize", model, "--pure", "F16", "-o", text(&whole)], &options[..]].concat()).assert().success();
    let content = fs::read(&whole).unwrap();
    for length in [content.len() - 100, content.len() / 2, 1000, 20, 3] {
        fs::write(&cut, &content[..length]).unwrap();
        fails_with(&["quantize", text(&cut), "--pure", "Q4_0", "--device", "cpu", "-o", text(&output)], "cut.gguf");
    }
    assert!(!output.exists());
}

/// No folder of the system's own takes files, not even from root.
#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_folder_is_refused() {
    let args = ["quantize", "models/tiny-llama", "--bpw", "4", "-o", "/proc/self/out.gguf"];
    fails_with(&args, "cannot write into the folder of the output: `/proc/self/out.gguf`");
}

/// On a file system of 64 KiB in a mount namespace of its own, which goes with the process.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    use std::process::Command;

    let folder = tempfile::tempdir().unwrap();
    let disk = text(folder.path());
    let inside = |script: &str| {
        let script = format!("mount -t tmpfs -o size=64k none \"$1\" && {script}");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh", disk]);
        command.arg(env!("CARGO_BIN_EXE_dq-gpu")).output()
    };
    if !inside("true").is_ok_and(|output| output.status.success()) {
        println!("skipped: file systems cannot be mounted here");
        return;
    }
    let options = "--pure F32 --device cpu --ctx 64 --chunks 1 --quiet";
    let output = inside(&format!(
        "{{ \"$2\" quantize tests/fixtures/models/llama-tied {options} -o \"$1/out.gguf\"; code=$?; ls -A \"$1\"; exit $code; }}"
    ))
    .unwrap();
    let (found, message) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), found.as_ref()), (Some(1), ""), "{message}");
    let expected = format!("error: the disk has too little room: `{disk}` (0.");
    assert!(message.starts_with(&expected) && message.lines().count() == 1, "{message}");
}

/// Work that is stopped ends with 130 and leaves nothing behind.
#[cfg(unix)]
#[test]
fn ctrl_c_is_clean() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_dq-gpu"))
        .args(["quantize", "models/tiny-llama", "--bpw", "4.5", "--chunks", "32", "--device", "cpu", "-o"])
        .arg(folder.path().join("out.gguf"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    // the importance matrix is done: work is under way, and much of it is left
    let first = lines.find(|line| line.ends_with(" s")).expect("a step is done");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{first}\n{rest:#?}");
    assert!(rest.last().unwrap().starts_with("error: ") && rest.last().unwrap().ends_with("interrupted"), "{rest:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
