//! Recording and submitting: commands gather in one encoder and leave in short submissions.
//!
//! Operating systems kill GPU programs that hog a display, and Metal then reports success. So dispatches aim at 50 ms,
//! submissions at 200 ms, from a rate that is measured as the work goes on; and each submission ends with a dispatch
//! that leaves proof of having run, checked by every read.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::gpu::{Faults, SLOT_BYTES};

const DISPATCH_SECONDS: f64 = 0.05;
const SUBMIT_SECONDS: f64 = 0.2;
/// Operations per second assumed before anything was measured: a slow laptop GPU.
const FIRST_RATE: f64 = 2e10;
const SLOWEST_RATE: f64 = 2e8;
/// Dispatches per submission.
const SLOTS: usize = 512;
const MAX_IN_FLIGHT: usize = 2;
const MAX_GRID: u32 = 65_535;
/// Bytes read back at a time: with the status words, a power of two.
const READ_CHUNK: usize = (64 << 20) - 8;
/// wgpu stages every write until the next submission; this bounds that memory.
const MAX_STAGED: usize = 256 << 20;

pub(super) struct Recorder {
    device: wgpu::Device,
    queue: wgpu::Queue,
    faults: Arc<Faults>,
    encoder: Option<wgpu::CommandEncoder>,
    /// Parameters of the recorded dispatches, written to `uniform_buffer` just before they are submitted.
    uniforms: Vec<u8>,
    uniform_buffer: wgpu::Buffer,
    sentinel: wgpu::ComputePipeline,
    status: wgpu::Buffer,
    readback: Option<wgpu::Buffer>,
    /// Buffers used by recorded commands: a write to one of them must come after.
    touched: HashSet<u64>,
    cost: f64,
    staged: usize,
    jobs: u32,
    /// Submissions that did not run and were reported.
    missing: u32,
    in_flight: VecDeque<Flight>,
    last_done: Instant,
    rate: f64,
    timeout: Duration,
}

struct Flight {
    index: wgpu::SubmissionIndex,
    submitted: Instant,
    cost: f64,
}

impl Recorder {
    pub(super) fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        faults: Arc<Faults>,
        sentinel: wgpu::ComputePipeline,
        timeout: Duration,
    ) -> Recorder {
        let buffer = |label, size, usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
        };
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let status = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        Recorder {
            uniform_buffer: buffer("parameters", (SLOTS * SLOT_BYTES) as u64, uniform),
            status: buffer("status", 8, status),
            device,
            queue,
            faults,
            encoder: None,
            uniforms: Vec::new(),
            sentinel,
            readback: None,
            touched: HashSet::new(),
            cost: 0.0,
            staged: 0,
            jobs: 0,
            missing: 0,
            in_flight: VecDeque::new(),
            last_done: Instant::now(),
            rate: FIRST_RATE,
            timeout,
        }
    }

    pub(super) fn write(&mut self, id: u64, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        // The queue writes before the commands of the next submission.
        if self.touched.contains(&id) || self.staged + bytes.len() > MAX_STAGED {
            self.submit()?;
        }
        let whole = bytes.len() / 4 * 4;
        self.queue.write_buffer(buffer, offset as u64, &bytes[..whole]);
        if whole < bytes.len() {
            let mut word = [0; 4];
            word[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.queue.write_buffer(buffer, (offset + whole) as u64, &word);
        }
        self.staged += bytes.len();
        Ok(())
    }

    pub(super) fn copy(
        &mut self,
        src: (u64, &wgpu::Buffer, usize),
        dst: (u64, &wgpu::Buffer, usize),
        bytes: usize,
    ) -> Result<()> {
        if bytes > 0 {
            self.touched.extend([src.0, dst.0]);
            self.encoder().copy_buffer_to_buffer(src.1, src.2 as u64, dst.1, dst.2 as u64, bytes as u64);
        }
        Ok(())
    }

    /// Records a grid of `groups` workgroups, cut into dispatches that are expected to be short. A pipeline may come with
    /// its second bind group.
    pub(super) fn dispatch(
        &mut self,
        pipeline: (&wgpu::ComputePipeline, Option<&wgpu::BindGroup>),
        bindings: &[(u64, &wgpu::Buffer)],
        params: &[u8],
        groups: u32,
        group_cost: f64,
    ) -> Result<()> {
        let mut first = 0;
        while first < groups {
            let affordable = (self.rate * DISPATCH_SECONDS / group_cost.max(1.0)) as u32;
            let count = affordable.clamp(1, MAX_GRID * 16).min(groups - first);
            // One slot stays free for the sentinel.
            if self.uniforms.len() / SLOT_BYTES + 1 >= SLOTS {
                self.submit()?;
            }
            self.touched.extend(bindings.iter().map(|(id, _)| *id));
            let buffers = bindings.iter().map(|(_, buffer)| *buffer);
            self.record(pipeline, buffers, params, first, count);
            self.cost += f64::from(count) * group_cost;
            first += count;
            if self.cost >= self.rate * SUBMIT_SECONDS {
                self.submit()?;
            }
        }
        Ok(())
    }

    fn record<'a>(
        &mut self,
        (pipeline, second): (&wgpu::ComputePipeline, Option<&wgpu::BindGroup>),
        buffers: impl Iterator<Item = &'a wgpu::Buffer>,
        params: &[u8],
        first: u32,
        count: u32,
    ) {
        let height = count.div_ceil(MAX_GRID);
        let width = count.div_ceil(height);
        let slot = self.uniforms.len();
        for word in [first, first + count, width, 0] {
            self.uniforms.extend(word.to_le_bytes());
        }
        self.uniforms.extend(params);
        self.uniforms.resize(slot + SLOT_BYTES, 0);

        let uniform = wgpu::BufferBinding {
            buffer: &self.uniform_buffer,
            offset: slot as u64,
            size: wgpu::BufferSize::new(SLOT_BYTES as u64),
        };
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(uniform) }];
        entries.extend(
            buffers
                .zip(1..)
                .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }),
        );
        let layout = pipeline.get_bind_group_layout(0);
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &layout,
            entries: &entries,
        });
        let mut pass = self.encoder().begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &group, &[]);
        if let Some(second) = second {
            pass.set_bind_group(1, second, &[]);
        }
        pass.dispatch_workgroups(width, height, 1);
    }

    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.encoder
            .get_or_insert_with(|| self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()))
    }

    /// Submits what is recorded, if anything, and waits while too many submissions are in flight.
    pub(super) fn submit(&mut self) -> Result<()> {
        if self.encoder.is_some() || self.staged > 0 {
            self.record_sentinel();
            self.launch();
        }
        while self.in_flight.len() > MAX_IN_FLIGHT {
            self.wait_oldest()?;
        }
        self.faults.check()
    }

    fn record_sentinel(&mut self) {
        self.jobs = self.jobs.wrapping_add(1);
        let params: [u32; 4] = [self.jobs, 0, 0, 0];
        let (pipeline, status) = (self.sentinel.clone(), self.status.clone());
        self.record((&pipeline, None), std::iter::once(&status), bytemuck::cast_slice(&params), 0, 1);
    }

    fn launch(&mut self) {
        let commands = self.encoder.take().map(wgpu::CommandEncoder::finish);
        self.queue.write_buffer(&self.uniform_buffer, 0, &self.uniforms);
        let index = self.queue.submit(commands);
        self.in_flight.push_back(Flight { index, submitted: Instant::now(), cost: self.cost });
        self.uniforms.clear();
        self.touched.clear();
        self.cost = 0.0;
        self.staged = 0;
    }

    fn wait_oldest(&mut self) -> Result<()> {
        let Some(flight) = self.in_flight.pop_front() else { return Ok(()) };
        let began = Instant::now();
        let poll = wgpu::PollType::Wait { submission_index: Some(flight.index), timeout: Some(self.timeout) };
        if let Err(error) = self.device.poll(poll) {
            self.faults.note_loss(format!("no answer within {} s ({error})", self.timeout.as_secs()));
            return self.faults.check();
        }
        let now = Instant::now();
        let busy = now - flight.submitted.max(self.last_done);
        // Work that was done before we asked took less time than we saw: that may only raise the rate.
        let exact = now - began > Duration::from_micros(200);
        self.last_done = now;
        self.rate = next_rate(self.rate, flight.cost, busy, exact);
        Ok(())
    }

    /// Submits everything, waits, and copies a range of `buffer` to `target`.
    pub(super) fn read(&mut self, buffer: &wgpu::Buffer, offset: usize, target: &mut [u8]) -> Result<()> {
        let mut offset = offset;
        for chunk in target.chunks_mut(READ_CHUNK) {
            let padded = chunk.len().next_multiple_of(4);
            let readback = self.readback(padded + 8)?;
            self.record_sentinel();
            let status = self.status.clone();
            let encoder = self.encoder();
            encoder.copy_buffer_to_buffer(buffer, offset as u64, &readback, 0, padded as u64);
            encoder.copy_buffer_to_buffer(&status, 0, &readback, padded as u64, 8);
            self.launch();
            self.collect(&readback, chunk, padded)?;
            offset += chunk.len();
        }
        self.faults.check()
    }

    fn collect(&mut self, readback: &wgpu::Buffer, chunk: &mut [u8], padded: usize) -> Result<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        readback.map_async(wgpu::MapMode::Read, 0..(padded + 8) as u64, move |result| {
            // The receiver is gone only if this function has already failed.
            let _ = sender.send(result);
        });
        while !self.in_flight.is_empty() {
            self.wait_oldest()?;
        }
        self.faults.check()?;
        receiver.recv().context("the GPU dropped a read")?.context("reading from the GPU")?;
        let status: [u32; 2] = {
            let view = readback.get_mapped_range(0..(padded + 8) as u64).context("reading from the GPU")?;
            chunk.copy_from_slice(&view[..chunk.len()]);
            bytemuck::pod_read_unaligned(&view[padded..padded + 8])
        };
        readback.unmap();
        self.check_status(status)
    }

    /// The last job must have left its number, and every job before must have been counted.
    fn check_status(&mut self, [job, count]: [u32; 2]) -> Result<()> {
        let missing = self.jobs.wrapping_sub(count);
        let news = missing.wrapping_sub(self.missing);
        // Reported once: what is recorded from here on may be fine again.
        self.missing = missing;
        ensure!(job == self.jobs ^ 0xD06F_00D5, "the GPU did not run the last submission; its results are lost");
        ensure!(news == 0, "the GPU dropped {news} of {} submissions; their results are lost", self.jobs);
        Ok(())
    }

    fn readback(&mut self, bytes: usize) -> Result<wgpu::Buffer> {
        if let Some(buffer) = self.readback.as_ref().filter(|buffer| buffer.size() >= bytes as u64) {
            return Ok(buffer.clone());
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: bytes.next_power_of_two().max(4096) as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.faults.check()?;
        self.readback = Some(buffer.clone());
        Ok(buffer)
    }
}

/// The operations per second to expect after a submission of `cost` kept the device busy for about `busy`, exactly so if
/// we waited for its end. Falls fast, since long dispatches are dangerous, and rises by steps.
fn next_rate(rate: f64, cost: f64, busy: Duration, exact: bool) -> f64 {
    // Short submissions measure latency, not speed.
    if busy < Duration::from_millis(5) && cost < rate * SUBMIT_SECONDS / 2.0 {
        return rate;
    }
    let measured = cost / busy.as_secs_f64().max(1e-4);
    if measured > rate {
        measured.min(rate * 2.0)
    } else if exact && cost > 0.0 {
        ((rate + 3.0 * measured) / 4.0).max(SLOWEST_RATE)
    } else {
        rate
    }
}

#[cfg(test)]
impl Recorder {
    /// Counts a submission that never ran, as a driver does that drops one and says nothing.
    pub(super) fn lose_a_submission(&mut self) {
        self.jobs += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Submissions of 0.2 s at the expected rate, on a device of the `true_rate`.
    fn learned(true_rate: f64, submissions: usize) -> f64 {
        (0..submissions).fold(FIRST_RATE, |rate, _| {
            let cost = rate * SUBMIT_SECONDS;
            next_rate(rate, cost, Duration::from_secs_f64(cost / true_rate), true)
        })
    }

    #[test]
    fn the_rate_is_learned_from_slow_and_fast_devices() {
        assert!((learned(1e9, 6) / 1e9 - 1.0).abs() < 0.05);
        assert!((learned(2e13, 12) / 2e13 - 1.0).abs() < 0.01);
        assert!(learned(1e6, 50) >= SLOWEST_RATE);
    }

    #[test]
    fn latency_and_uploads_teach_nothing() {
        let soon = Duration::from_millis(1);
        assert_eq!(next_rate(1e10, 1e3, soon, true), 1e10);
        assert_eq!(next_rate(1e10, 0.0, Duration::from_secs(1), true), 1e10);
        assert_eq!(next_rate(1e10, 1e9, Duration::from_secs(1), false), 1e10, "it may have been done long before");
    }
}
