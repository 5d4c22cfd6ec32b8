//! Which adapter to use: enumerate, sort, choose, report.

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use super::{Device, GpuDevice};

/// What sort of machine an adapter is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Discrete,
    Integrated,
    Virtual,
    Other,
    /// A software rasterizer such as llvmpipe: correct, and slower than the CPU device.
    Software,
    /// The CPU device of this program.
    Cpu,
}

/// What the choice depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFacts {
    pub name: String,
    pub kind: Kind,
    /// Bytes.
    pub max_buffer: u64,
}

impl AdapterFacts {
    /// Best adapters first: by kind, then by the largest buffer.
    fn rank(&self) -> (Kind, std::cmp::Reverse<u64>) {
        (self.kind, std::cmp::Reverse(self.max_buffer))
    }

    fn is_named(&self, part: &str) -> bool {
        self.name.to_lowercase().contains(&part.to_lowercase())
    }
}

/// The outcome of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The CPU device, and why.
    Cpu(String),
    /// The adapter at this place of the sorted list, and why.
    Adapter(usize, String),
}

/// Applies the user's choice to adapters sorted best first. `env_name` is `WGPU_ADAPTER_NAME`.
///
/// Fails when something was asked for by name, by index or as `gpu` and is not there.
pub fn choose(adapters: &[AdapterFacts], choice: &str, env_name: Option<&str>) -> Result<Choice> {
    let choice = choice.trim();
    if choice.eq_ignore_ascii_case("cpu") {
        return Ok(Choice::Cpu("asked for".into()));
    }
    let automatic = choice.is_empty() || choice.eq_ignore_ascii_case("auto");
    if automatic || choice.eq_ignore_ascii_case("gpu") {
        if let Some(name) = env_name {
            let place = named(adapters, name).with_context(|| unknown(adapters, "WGPU_ADAPTER_NAME", name))?;
            return Ok(Choice::Adapter(place, format!("matches WGPU_ADAPTER_NAME `{name}`")));
        }
        return match adapters.iter().position(|adapter| adapter.kind < Kind::Software) {
            Some(place) => Ok(Choice::Adapter(place, "the best GPU".into())),
            None if automatic => Ok(Choice::Cpu("no GPU found; using the CPU".into())),
            None => Err(anyhow!("no GPU found (software adapters are used only by name)")),
        };
    }
    if let Ok(index) = choice.parse::<usize>() {
        if index >= adapters.len() {
            bail!("{}", unknown(adapters, "--device", choice));
        }
        return Ok(Choice::Adapter(index, "asked for by index".into()));
    }
    let place = named(adapters, choice).with_context(|| unknown(adapters, "--device", choice))?;
    Ok(Choice::Adapter(place, "asked for by name".into()))
}

fn named(adapters: &[AdapterFacts], part: &str) -> Option<usize> {
    adapters.iter().position(|adapter| adapter.is_named(part))
}

fn unknown(adapters: &[AdapterFacts], flag: &str, value: &str) -> String {
    let names: Vec<String> = adapters.iter().enumerate().map(|(i, a)| format!("{i} = {}", a.name)).collect();
    let known = if names.is_empty() { "there are none".to_owned() } else { names.join(", ") };
    format!("no adapter matches {flag}: `{value}` ({known})")
}

/// One row of `dq-gpu devices`.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterReport {
    /// The number that `--device` takes; none for the CPU device.
    pub index: Option<usize>,
    pub name: String,
    pub backend: String,
    pub kind: Kind,
    pub driver: String,
    /// Bytes.
    pub max_buffer: u64,
    /// Bytes that one kernel may see of one buffer.
    pub max_binding: u64,
    /// Bytes of memory shared by a workgroup.
    pub workgroup_memory: u32,
    /// Smallest and largest number of invocations that run in step.
    pub subgroup: (u32, u32),
    pub features: Vec<String>,
    /// Whether `auto` takes it.
    pub chosen: bool,
    pub reason: String,
}

/// The adapters of this machine, best first. Without a Vulkan, Metal or DX12 library the list is empty.
fn enumerate() -> Vec<(wgpu::Adapter, AdapterFacts)> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // Through GL the same GPU shows up again, with fewer features.
    descriptor.backends &= !wgpu::Backends::GL;
    descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let mut found: Vec<_> = adapters
        .into_iter()
        .map(|adapter| {
            let info = adapter.get_info();
            let kind = match info.device_type {
                wgpu::DeviceType::DiscreteGpu => Kind::Discrete,
                wgpu::DeviceType::IntegratedGpu => Kind::Integrated,
                wgpu::DeviceType::VirtualGpu => Kind::Virtual,
                wgpu::DeviceType::Other => Kind::Other,
                wgpu::DeviceType::Cpu => Kind::Software,
            };
            let facts = AdapterFacts { name: info.name, kind, max_buffer: adapter.limits().max_buffer_size };
            (adapter, facts)
        })
        .collect();
    found.sort_by_key(|(_, facts)| facts.rank());
    found
}

fn env_name() -> Option<String> {
    std::env::var("WGPU_ADAPTER_NAME").ok().filter(|name| !name.is_empty())
}

pub(super) fn open(choice: &str) -> Result<Device> {
    if choice.trim().eq_ignore_ascii_case("cpu") {
        return Ok(Device::cpu());
    }
    let (adapters, facts): (Vec<_>, Vec<_>) = enumerate().into_iter().unzip();
    let place = match choose(&facts, choice, env_name().as_deref())? {
        Choice::Cpu(reason) => {
            log::warn!("{reason}");
            return Ok(Device::cpu());
        }
        Choice::Adapter(place, _) => place,
    };
    let opened = GpuDevice::open(&adapters[place]).with_context(|| format!("adapter: `{}`", facts[place].name));
    match opened {
        Ok(gpu) => Ok(Device::Gpu(gpu)),
        Err(error) if choice.trim().eq_ignore_ascii_case("auto") => {
            log::warn!("{error:#}; using the CPU");
            Ok(Device::cpu())
        }
        Err(error) => Err(error),
    }
}

pub(super) fn list() -> Vec<AdapterReport> {
    let (adapters, facts): (Vec<_>, Vec<_>) = enumerate().into_iter().unzip();
    let choice = choose(&facts, "auto", env_name().as_deref());
    let mut rows: Vec<AdapterReport> = adapters.iter().zip(facts).enumerate().map(row).collect();
    rows.push(cpu_row());
    let last = rows.len() - 1;
    match choice {
        Ok(Choice::Adapter(place, reason)) => (rows[place].chosen, rows[place].reason) = (true, reason),
        Ok(Choice::Cpu(reason)) => (rows[last].chosen, rows[last].reason) = (true, reason),
        Err(error) => rows[last].reason = format!("{error:#}"),
    }
    rows
}

fn row((index, (adapter, facts)): (usize, (&wgpu::Adapter, AdapterFacts))) -> AdapterReport {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let reason = match facts.kind {
        Kind::Software => "a software adapter, slower than the CPU device; used only by name",
        _ => "not the best GPU",
    };
    AdapterReport {
        index: Some(index),
        name: facts.name,
        backend: info.backend.to_string(),
        kind: facts.kind,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        max_buffer: limits.max_buffer_size,
        max_binding: limits.max_storage_buffer_binding_size,
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        subgroup: (info.subgroup_min_size, info.subgroup_max_size),
        features: notable_features(adapter.features()),
        chosen: false,
        reason: reason.to_owned(),
    }
}

fn cpu_row() -> AdapterReport {
    AdapterReport {
        index: None,
        name: Device::cpu().name(),
        backend: "cpu".to_owned(),
        kind: Kind::Cpu,
        driver: String::new(),
        max_buffer: usize::MAX as u64,
        max_binding: usize::MAX as u64,
        workgroup_memory: 0,
        subgroup: (1, 1),
        features: Vec::new(),
        chosen: false,
        reason: "used when there is no GPU, or with `--device cpu`".to_owned(),
    }
}

fn notable_features(has: wgpu::Features) -> Vec<String> {
    use wgpu::Features as F;
    let notable = [
        (F::SHADER_F16, "f16"),
        (F::SUBGROUP, "subgroups"),
        (F::TIMESTAMP_QUERY, "timestamps"),
        (F::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrices"),
    ];
    notable.iter().filter(|(feature, _)| has.contains(*feature)).map(|(_, name)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: Kind, max_buffer: u64) -> AdapterFacts {
        AdapterFacts { name: name.into(), kind, max_buffer }
    }

    fn machine() -> Vec<AdapterFacts> {
        let mut all = vec![
            adapter("llvmpipe (LLVM 15)", Kind::Software, 1 << 31),
            adapter("Intel Iris Xe", Kind::Integrated, 1 << 31),
            adapter("GeForce small", Kind::Discrete, 1 << 30),
            adapter("GeForce large", Kind::Discrete, 1 << 32),
        ];
        all.sort_by_key(AdapterFacts::rank);
        all
    }

    fn chosen(choice: &str, env: Option<&str>) -> Result<String> {
        let all = machine();
        Ok(match choose(&all, choice, env)? {
            Choice::Cpu(_) => "cpu".to_owned(),
            Choice::Adapter(place, _) => all[place].name.clone(),
        })
    }

    #[test]
    fn the_best_gpu_is_the_largest_discrete_one() {
        assert_eq!(chosen("auto", None).unwrap(), "GeForce large");
        assert_eq!(chosen("gpu", None).unwrap(), "GeForce large");
        assert_eq!(chosen("0", None).unwrap(), "GeForce large");
    }

    #[test]
    fn names_indices_and_the_environment_are_honoured() {
        assert_eq!(chosen("iris", None).unwrap(), "Intel Iris Xe");
        assert_eq!(chosen("LLVMPIPE", None).unwrap(), "llvmpipe (LLVM 15)");
        assert_eq!(chosen("3", None).unwrap(), "llvmpipe (LLVM 15)");
        assert_eq!(chosen("auto", Some("small")).unwrap(), "GeForce small");
        assert_eq!(chosen("iris", Some("small")).unwrap(), "Intel Iris Xe", "the flag wins over the environment");
        assert_eq!(chosen("cpu", Some("small")).unwrap(), "cpu");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (choice, env) in [("radeon", None), ("4", None), ("auto", Some("radeon"))] {
            let message = chosen(choice, env).unwrap_err().to_string();
            assert!(message.contains("Intel Iris Xe"), "{message}");
        }
    }

    #[test]
    fn software_adapters_are_never_automatic() {
        let software = [adapter("llvmpipe", Kind::Software, 1 << 31)];
        assert!(matches!(choose(&software, "auto", None).unwrap(), Choice::Cpu(_)));
        assert!(choose(&software, "gpu", None).is_err());
        assert!(matches!(choose(&software, "auto", Some("llvmpipe")).unwrap(), Choice::Adapter(0, _)));
        assert!(matches!(choose(&[], "auto", None).unwrap(), Choice::Cpu(_)));
    }
}
