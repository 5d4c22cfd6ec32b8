#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

/// The system's, but for the process that renders chat templates.
#[global_allocator]
static ALLOCATOR: dq_gpu::memory_limit::Allocator = dq_gpu::memory_limit::Allocator;

fn main() -> ExitCode {
    quiet_vulkan();
    dq_gpu::cli::run()
}

/// Vulkan drivers print an error of their own where there is no `XDG_RUNTIME_DIR`, as under cron or in a container.
#[cfg(target_os = "linux")]
fn quiet_vulkan() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the first thing that the program does, so no other thread can read the environment.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
}

#[cfg(not(target_os = "linux"))]
fn quiet_vulkan() {}
