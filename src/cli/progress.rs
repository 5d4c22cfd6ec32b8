//! Bars, finished-step lines, and Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::INTERRUPTED;
use super::output::StepTime;
use super::table::short;
use crate::progress::Progress;

/// The error of work that was stopped by Ctrl-C. The program then exits with 130.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// How progress is shown, always on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Nothing.
    Silent,
    /// One line per finished step, for logs.
    Lines,
    /// A bar that moves, for terminals.
    Bars,
}

/// Set by the first Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// Progress on the terminal; keeps the time of every step for the report.
pub struct Bars {
    style: Style,
    multi: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Step>,
    done: Vec<StepTime>,
    /// Nothing has been shown since [`Bars::part`].
    parted: bool,
}

struct Step {
    name: String,
    start: Instant,
    bar: ProgressBar,
}

impl Bars {
    /// Also takes over Ctrl-C: the first asks the work to stop at its next [`Progress::advance`], the second ends the
    /// program on the spot. Nothing is lost either way: files get their final name only when they are complete.
    pub fn new(style: Style, multi: MultiProgress) -> Result<Bars> {
        watch_interrupts(multi.clone())?;
        Ok(Bars { style, multi, state: Mutex::default() })
    }

    /// Seconds of every finished step in the order of their first start; steps of one name are added up.
    pub fn steps(&self) -> Vec<StepTime> {
        self.state().done.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty line between the progress so far and a result that is printed now.
    pub fn part(&self) {
        let mut state = self.state();
        self.finish(&mut state);
        if !state.parted && !state.done.is_empty() {
            self.note("");
        }
        state.parted = true;
    }

    /// A line on stderr that is not part of a bar.
    fn note(&self, line: &str) {
        if self.style != Style::Silent {
            self.multi.suspend(|| eprintln!("{line}"));
        }
    }

    fn finish(&self, state: &mut State) {
        let Some(step) = state.current.take() else { return };
        let seconds = step.start.elapsed().as_secs_f64();
        step.bar.finish_and_clear();
        let line = format!("{:<34} {seconds:>9.2} s", step.name);
        self.note(&line);
        match state.done.iter_mut().find(|done| done.step == step.name) {
            Some(done) => done.seconds += seconds,
            None => state.done.push(StepTime { step: step.name, seconds }),
        }
    }
}

impl Progress for Bars {
    fn begin(&self, step: &str, total: u64) {
        let mut state = self.state();
        self.finish(&mut state);
        state.parted = false;
        let bar = match self.style {
            Style::Bars => {
                let bar = self.multi.add(ProgressBar::new(total).with_style(bar_style(total)));
                bar.set_message(step.to_owned());
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            }
            Style::Silent | Style::Lines => ProgressBar::hidden(),
        };
        state.current = Some(Step { name: step.to_owned(), start: Instant::now(), bar });
    }

    fn advance(&self, amount: u64) -> Result<()> {
        if STOP.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        if let Some(step) = &self.state().current {
            step.bar.inc(amount);
        }
        Ok(())
    }

    fn end(&self) {
        self.finish(&mut self.state());
    }
}

impl Drop for Bars {
    /// Work that failed leaves no half-drawn bar above its error; an empty line parts progress and result.
    fn drop(&mut self) {
        let mut state = self.state();
        let unfinished = state.current.take();
        if let Some(step) = &unfinished {
            step.bar.finish_and_clear();
        } else if !state.parted && !state.done.is_empty() {
            self.note("");
        }
    }
}

fn bar_style(total: u64) -> ProgressStyle {
    let template = match total {
        0 => "{msg:<24} {spinner} {elapsed_precise}",
        _ => "{msg:<24} [{bar:28}] {done}/{all}  {rate}/s  {elapsed_precise} elapsed, {eta_precise} left",
    };
    ProgressStyle::with_template(template)
        .expect("the template is well formed")
        .progress_chars("=> ")
        .with_key("done", |state: &ProgressState, out: &mut dyn std::fmt::Write| write_short(out, state.pos() as f64))
        .with_key("all", move |_: &ProgressState, out: &mut dyn std::fmt::Write| write_short(out, total as f64))
        .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| write_short(out, state.per_sec()))
}

fn write_short(out: &mut dyn std::fmt::Write, number: f64) {
    // writing to indicatif's line buffer cannot fail
    let _ = out.write_str(&short(number));
}

fn watch_interrupts(multi: MultiProgress) -> Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| {
        outcome = ctrlc::set_handler(move || {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED.into());
            }
            multi.suspend(|| eprintln!("stopping; press Ctrl-C again to stop at once"));
        });
    });
    outcome.context("cannot listen for Ctrl-C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_timed_and_added_up() {
        let bars = Bars { style: Style::Silent, multi: MultiProgress::new(), state: Mutex::default() };
        for step in ["read", "listen", "read"] {
            bars.begin(step, 2);
            bars.advance(2).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            bars.end();
        }
        bars.begin("unfinished", 1);
        let steps = bars.steps();
        assert_eq!(steps.iter().map(|step| step.step.as_str()).collect::<Vec<_>>(), ["read", "listen"]);
        assert!(steps[0].seconds >= 0.004 && steps[1].seconds >= 0.002);
    }

    #[test]
    fn the_templates_are_well_formed() {
        bar_style(0);
        bar_style(7);
    }
}
