//! Ctrl-C, SIGTERM and a terminal that closes: the work is asked to stop; if it has not soon, the program ends without it.
//! Nothing is lost either way: files get their names only when they are complete.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::MultiProgress;

use super::INTERRUPTED;
use super::terminal::tell;
use crate::whole_file;

/// The error of work that was stopped. The program then exits with 130.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Time for the work to stop by itself; with [`LAST_WORDS`] an answer comes within a second.
const PATIENCE: Duration = Duration::from_millis(700);
/// Time to say that the program ends, to a terminal that may not take it.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The work is to stop.
static STOP: AtomicBool = AtomicBool::new(false);
/// The program is ending, by itself or by force.
static ENDING: AtomicBool = AtomicBool::new(false);
/// What is kept of work that is stopped.
static KEPT: Mutex<Option<String>> = Mutex::new(None);

/// Fails once the user wants the work to stop.
pub fn check() -> Result<()> {
    if STOP.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
}

/// What to tell of what is kept when the work is stopped.
pub fn keep_in_mind(note: String) {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(note);
}

/// The work is over, stopped or not: the program ends by itself. Waits for ever if it is being ended already.
pub fn ends(error: Option<&anyhow::Error>) {
    if ENDING.swap(true, Ordering::SeqCst) {
        loop {
            std::thread::park();
        }
    }
    if error.is_some_and(|error| error.chain().any(|cause| cause.is::<Interrupted>())) {
        tell_kept();
    }
}

fn tell_kept() {
    if let Some(note) = KEPT.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        log::warn!("{note}");
    }
}

/// Takes over the signals that ask the program to stop, from here on.
pub fn watch(multi: MultiProgress) -> Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| {
        let ignored = ignored_signals();
        outcome = ctrlc::set_handler(move || {
            if STOP.swap(true, Ordering::Relaxed) {
                end(&multi);
            }
            let shown = multi.clone();
            std::thread::spawn(move || {
                std::thread::sleep(PATIENCE);
                end(&shown);
            });
            multi.suspend(|| tell("stopping; press Ctrl-C again to stop at once"));
        });
        ignore(&ignored);
    });
    outcome.context("cannot listen for Ctrl-C")
}

/// Ends the program whatever it is doing, unless it is just ending by itself.
fn end(multi: &MultiProgress) {
    if ENDING.swap(true, Ordering::SeqCst) {
        return;
    }
    whole_file::remove_all();
    let (said, wait) = mpsc::channel();
    let multi = multi.clone();
    // in a thread of its own: a terminal that takes nothing must not keep the program
    std::thread::spawn(move || {
        // a bar that cannot be cleared stays
        let _ = multi.clear();
        tell_kept();
        tell("error: interrupted");
        let _ = said.send(());
    });
    let _ = wait.recv_timeout(LAST_WORDS);
    exit();
}

/// Without the handlers that libraries have for the end: other threads still use what they take down.
#[cfg(unix)]
fn exit() -> ! {
    // SAFETY: ends the process, nothing else.
    unsafe { libc::_exit(INTERRUPTED.into()) }
}

#[cfg(not(unix))]
fn exit() -> ! {
    std::process::exit(INTERRUPTED.into())
}

/// The signals that whoever started the program wants it to ignore, such as SIGHUP under `nohup`.
#[cfg(unix)]
fn ignored_signals() -> Vec<libc::c_int> {
    let is_ignored = |signal: &libc::c_int| {
        let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: only asks for the action of a signal; a zeroed one is a valid place for it.
        let (code, old) = unsafe { (libc::sigaction(*signal, std::ptr::null(), old.as_mut_ptr()), old.assume_init()) };
        code == 0 && old.sa_sigaction == libc::SIG_IGN
    };
    [libc::SIGHUP, libc::SIGINT, libc::SIGTERM].into_iter().filter(is_ignored).collect()
}

#[cfg(unix)]
fn ignore(signals: &[libc::c_int]) {
    for &signal in signals {
        // SAFETY: sets the action of a signal to one that runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(not(unix))]
fn ignored_signals() {}

#[cfg(not(unix))]
fn ignore(_: &()) {}
