//! Jobs that are killed, interrupted, or that lose their terminal.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dq_gpu::gguf::{GgufWriter, Metadata, TensorPlan};
use dq_gpu::quant::GgmlType;

use super::outputs::{dq_gpu, names, quantize, success, text};

/// Rounds tensors, so that there is something to keep, in about a second.
const JOB: [&str; 4] = ["--bpw", "6", "--types", "Q4_0,Q5_0,Q8_0"];

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: the child has not been waited for, so its number is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
}

/// 20 moments of the job, always the same parts of its time.
fn moments(job: Duration) -> impl Iterator<Item = Duration> {
    (1..=20u32).map(move |n| {
        let part = f64::from(n.wrapping_mul(2_654_435_761) >> 16) / 65_536.0;
        job.mul_f64(part)
    })
}

/// Kills the job at 20 moments; the run after each makes the same file and leaves nothing else.
fn killed(work: Option<&Path>) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let began = Instant::now();
    success(quantize(text(&output), &JOB));
    let took = began.elapsed();
    let whole = fs::read(&output).unwrap();
    fs::remove_file(&output).unwrap();
    let options = match work {
        Some(work) => [&JOB[..], &["--work", text(work)]].concat(),
        None => JOB.to_vec(),
    };
    let mut killed = 0;
    for moment in moments(took) {
        let mut child = quantize(text(&output), &options);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment);
        signal(&child, libc::SIGKILL);
        killed += usize::from(child.wait().unwrap().signal() == Some(libc::SIGKILL));
        if output.exists() {
            assert!(fs::read(&output).unwrap() == whole, "a half file after {moment:?}");
            fs::remove_file(&output).unwrap();
        }
    }
    assert!(killed > 5, "{killed} of 20 jobs were killed");
    success(quantize(text(&output), &options));
    assert!(fs::read(&output).unwrap() == whole, "another file after kills");
    assert_eq!(names(folder.path()), ["out.gguf"], "a killed job's files stay");
}

#[test]
fn a_killed_job_leaves_nothing_broken() {
    killed(None);
}

#[test]
fn a_killed_job_goes_on_from_what_it_kept() {
    let work = tempfile::tempdir().unwrap();
    killed(Some(work.path()));
    let left = names(work.path()).into_iter().filter(|name| name.ends_with(".part") || name.starts_with("rounded"));
    assert_eq!(left.count(), 0, "{:?}", names(work.path()));
}

/// Two runs for one output at once: neither takes the other's temporary file for a killed job's.
#[test]
fn a_living_job_keeps_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let start = || {
        let mut command = quantize(text(&output), &JOB);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [start(), start(), start()] {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(names(folder.path()), ["out.gguf"]);
}

/// Work that looks at no signal, here because nobody takes what it prints, is ended all the same.
#[test]
fn what_does_not_stop_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.gguf");
    // more than a pipe holds
    let plans: Vec<TensorPlan> = (0..3000)
        .map(|number| TensorPlan { name: format!("blk.{number}.norm.weight"), dims: vec![1], ty: GgmlType::F32 })
        .collect();
    let mut writer = GgufWriter::new(&path, &Metadata::new(), &plans).unwrap();
    for plan in &plans {
        writer.write_tensor(&plan.name, &[0; 4]).unwrap();
    }
    writer.finish().unwrap();
    for asked in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut child = dq_gpu(&["inspect", text(&path)]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        signal(&child, asked);
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{errors}");
        assert!(errors.ends_with("error: interrupted\n"), "{errors}");
    }
}

/// A job that is stopped says what is kept, and leaves no temporary file.
#[test]
fn a_stopped_job_says_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (output, work) = (folder.path().join("out.gguf"), folder.path().join("work"));
    let args = ["quantize", "models/tiny-llama", "--pure", "Q3_K", "--device", "cpu", "--ctx", "64", "--chunks", "64"];
    let mut command = dq_gpu(&[&args[..], &["-o", text(&output), "--work", text(&work)]].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.ends_with(" s")).expect("a step is done");
    signal(&child, libc::SIGTERM);
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:#?}");
    let kept = format!("warning: what is done is kept, and the same command goes on from there: `{}`", text(&work));
    assert!(rest.contains(&kept), "{rest:#?}");
    assert!(rest.last().unwrap().ends_with("interrupted"), "{rest:#?}");
    assert_eq!(names(folder.path()), ["work"]);
}

/// Under `nohup` a job outlives its terminal.
#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let mut command: Command = quantize(text(&output), &JOB);
    // SAFETY: may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.ends_with(" s")).expect("a step is done");
    signal(&child, libc::SIGHUP);
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:#?}");
    assert_eq!(names(folder.path()), ["out.gguf"]);
}
