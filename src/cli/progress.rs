//! Bars and finished-step lines.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::interrupt;
use super::output::StepTime;
use super::table::short;
use super::terminal::{Screen, tell, visible};
use crate::progress::Progress;

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

/// Bars are drawn so often a second at most.
const FRAMES: u8 = 20;

/// Where bars are drawn: on a terminal, else nowhere.
pub fn multi() -> MultiProgress {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::term_like_with_hz(Box::new(Screen::stderr()), FRAMES),
        false => ProgressDrawTarget::hidden(),
    };
    MultiProgress::with_draw_target(target)
}

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
    pub fn new(style: Style, multi: MultiProgress) -> Bars {
        Bars { style, multi, state: Mutex::default() }
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
            self.multi.suspend(|| tell(line));
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
                bar.set_message(visible(step).into_owned());
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            }
            Style::Silent | Style::Lines => ProgressBar::hidden(),
        };
        state.current = Some(Step { name: step.to_owned(), start: Instant::now(), bar });
    }

    fn advance(&self, amount: u64) -> Result<()> {
        interrupt::check()?;
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
