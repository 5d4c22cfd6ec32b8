//! The hidden command that this program gives itself: the process in which a model's chat template runs.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{calibration, memory_limit};

/// Its name on the command line.
pub(super) const NAME: &str = "render-chat-template";
/// Memory that a template may take.
const MEMORY: usize = 512 << 20;

/// Answers what comes from standard input.
pub(super) fn run() -> Result<()> {
    no_core_dumps();
    memory_limit::set(MEMORY);
    calibration::serve(std::io::stdin().lock(), std::io::stdout())
}

/// How to start that process.
pub(super) fn command() -> Result<Command> {
    // on Linux the file may have been replaced or removed since; this is it all the same
    let running = std::path::Path::new("/proc/self/exe");
    let program = if cfg!(target_os = "linux") && running.exists() {
        running.to_owned()
    } else {
        std::env::current_exe().context("cannot find the program's own file")?
    };
    let mut command = Command::new(program);
    command.arg(NAME);
    Ok(command)
}

/// A template that is stopped by a limit is no crash to be looked into.
#[cfg(unix)]
fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // without it there may be a file too many, nothing worse
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

#[cfg(not(unix))]
fn no_core_dumps() {}
