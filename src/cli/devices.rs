//! `dq-gpu devices`: adapters, what each can do, which one is chosen and why.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::Global;
use super::output::{self, Report};
use super::table::{Align, Table, bytes};
use crate::device::{AdapterReport, Device, Kind};

const EXAMPLES: &str = "\
Examples:
  dq-gpu devices
  dq-gpu devices --json
  WGPU_BACKEND=dx12 dq-gpu devices             only this backend: vulkan, metal or dx12
  WGPU_ADAPTER_NAME=radeon dq-gpu devices      what `--device auto` takes then";

/// List the devices of this machine: what each can do, which one is chosen, and why.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DevicesArgs {}

#[derive(Serialize)]
struct DevicesReport {
    devices: Vec<AdapterReport>,
}

pub fn run(_args: &DevicesArgs, global: &Global) -> Result<()> {
    output::print(global, &DevicesReport { devices: Device::list() })
}

impl Report for DevicesReport {
    fn human(&self) -> String {
        let left = |title| (title, Align::Left);
        let mut choice = Table::new(&[left(""), left("--device"), left("name"), left("kind"), left("why")]);
        let mut abilities = Table::new(&[
            left("--device"),
            left("backend"),
            left("driver"),
            left("buffer"),
            left("binding"),
            left("features"),
        ]);
        for device in &self.devices {
            let index = device.index.map_or_else(|| "cpu".to_owned(), |index| index.to_string());
            let mark = if device.chosen { "*" } else { "" };
            choice.row([
                mark.into(),
                index.clone(),
                device.name.clone(),
                kind(device.kind).into(),
                device.reason.clone(),
            ]);
            if device.kind != Kind::Cpu {
                abilities.row([
                    index,
                    device.backend.clone(),
                    device.driver.clone(),
                    bytes(device.max_buffer),
                    bytes(device.max_binding),
                    device.features.join(", "),
                ]);
            }
        }
        if abilities.is_empty() { choice.to_string() } else { format!("{choice}\n{abilities}") }
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Discrete => "discrete GPU",
        Kind::Integrated => "integrated GPU",
        Kind::Virtual => "virtual GPU",
        Kind::Other => "other",
        Kind::Software => "software",
        Kind::Cpu => "CPU",
    }
}
