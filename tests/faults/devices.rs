//! Devices that are lost in the middle of a job or have no memory left: the job ends with one sentence and no file.

use std::fs;
use std::path::Path;

use dq_gpu::calibration::Chunks;
use dq_gpu::device::{Device, Fault};
use dq_gpu::forward::StreamOptions;
use dq_gpu::pipeline::checkpoint::Checkpoints;
use dq_gpu::pipeline::quantize::{Goal, Job};
use dq_gpu::plan::{Constraints, Objective, Target};
use dq_gpu::progress::Silent;
use dq_gpu::quant::GgmlType;
use dq_gpu::rounding::{Method, Prefix};
use dq_gpu::sensitivity::Way;
use dq_gpu::source::Model;

fn chunks(count: usize, vocabulary: usize) -> Chunks {
    let tokens: Vec<u32> = (0..count * 32).map(|place| (place * 7 % vocabulary) as u32).collect();
    Chunks {
        ctx: 32,
        first: tokens.iter().step_by(32).copied().collect(),
        tokens,
        domain: vec![0; count],
        domains: vec!["text".into()],
        hash: "0123".into(),
    }
}

/// Runs a whole job and gives its error.
fn job(device: &Device, memory: StreamOptions, output: &Path) -> Result<(), String> {
    let model = Model::open(Path::new("tests/fixtures/models/llama-tied")).unwrap();
    let (calibration, heldout) = (chunks(3, model.hparams.n_vocab), chunks(1, model.hparams.n_vocab));
    let types = [GgmlType::Q4_0, GgmlType::Q8_0];
    let job = Job {
        device,
        model: &model,
        calibration: &calibration,
        dataset: "test",
        imatrix: None,
        heldout: &heldout,
        types: &types,
        constraints: Constraints { types: Some(types.to_vec()), has_imatrix: true, ..Constraints::default() },
        goals: &[Goal::Target(Target::Bpw(6.0))],
        seed: 0,
        sensitivity: Way::Sweep,
        objective: Objective::Mean,
        probes: false,
        memory,
        rounding: Method { feedback: true, descents: 1, prefix: Prefix::Quantized },
        rounding_tokens: 64,
        rounds: 0,
        checkpoints: &Checkpoints::default(),
    };
    job.run(&[output.to_owned()], &Silent, |_| Ok(())).map_err(|error| format!("{error:#}"))
}

fn devices() -> Vec<Device> {
    let gpu = Device::open("llvmpipe").ok();
    if gpu.is_none() {
        println!("skipped the GPU half of a test: no llvmpipe");
    }
    std::iter::once(Device::cpu()).chain(gpu).collect()
}

#[test]
fn a_lost_device_ends_the_job_with_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    for device in devices() {
        for calls in [0, 1, 10, 100, 300, 1000] {
            let lost = device.with_fault(Fault::LostAfter(calls));
            let error = job(&lost, StreamOptions::default(), &output).unwrap_err();
            assert!(error.contains("the device was lost: unplugged by a test"), "after {calls} calls: {error}");
            assert!(!error.contains('\n'), "{error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "after {calls} calls");
        }
    }
    job(&Device::cpu().with_fault(Fault::LostAfter(u64::MAX)), StreamOptions::default(), &output).unwrap();
    assert!(output.exists());
}

#[test]
fn no_memory_ends_the_job_with_what_can_be_done() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    for device in devices() {
        for bytes in [0, 10_000, 100_000] {
            let small = device.with_fault(Fault::Memory(bytes));
            let error = job(&small, StreamOptions::default(), &output).unwrap_err();
            assert!(error.contains("no memory is left for buffer `") && error.contains("--memory"), "{error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
    // more than any address space has
    let error = Device::cpu().alloc("huge", 1 << 62).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("no memory is left for buffer `huge` of 4398046511104.0 MiB on CPU"), "{error}");
    // what all buffers give back is there for the next job
    let enough = Device::cpu().with_fault(Fault::Memory(64 << 20));
    for _ in 0..2 {
        job(&enough, StreamOptions::within(1 << 20), &output).unwrap();
    }
}
