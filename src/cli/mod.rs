//! The command line: one file per command, its options beside what it does with them. No arithmetic here.
//! `common` holds options that commands share, `outputs` the checks of what they will write, `output` what they print,
//! `terminal` how it gets to the reader, `progress` bars, `interrupt` Ctrl-C.

mod analyze;
mod common;
mod devices;
mod domains;
mod imatrix;
mod inspect;
mod interrupt;
mod kld;
pub mod objective;
mod output;
mod outputs;
mod plan;
mod plan_report;
pub mod progress;
mod quantize;
mod quantize_report;
mod render;
mod rounding;
pub mod size;
mod table;
mod target;
mod terminal;
mod text;
mod unproven;

use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgAction, Args, Parser, Subcommand};
use indicatif::MultiProgress;
use indicatif_log_bridge::LogWrapper;
use log::LevelFilter;

use interrupt::Interrupted;
use progress::{Bars, Style};
use terminal::{tell, visible, visible_lines};

/// Stack of the threads that commands run on: that of a main thread.
const STACK_BYTES: usize = 8 << 20;

/// Exit code after Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  dq-gpu quantize ./Qwen3-8B --size 4.7GiB        the best GGUF of at most 4.7 GiB
  dq-gpu quantize ./Qwen3-8B --type Q4_K_M        llama.cpp's own mix
  dq-gpu kld ./Qwen3-8B qwen3-8b.gguf             how far a quantized file is from the original
  dq-gpu inspect qwen3-8b.gguf                    what is in a file
  dq-gpu devices                                  where the work would run
  dq-gpu quantize --help                          every option of a command";

/// Turns a full-precision language model into the best GGUF of the size you asked for.
#[derive(Debug, Parser)]
#[command(name = "dq-gpu", version, after_long_help = EXAMPLES, max_term_width = 100)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quantize(quantize::QuantizeArgs),
    Imatrix(imatrix::ImatrixArgs),
    Analyze(analyze::AnalyzeArgs),
    Plan(plan::PlanArgs),
    Kld(kld::KldArgs),
    Inspect(inspect::InspectArgs),
    Devices(devices::DevicesArgs),
    #[command(hide = true, name = render::NAME)]
    RenderChatTemplate,
}

/// How every command talks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// Print the result as one JSON object and nothing else; of several targets one object a line, each when it is done
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no notes: only the result, and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more: -v what is being done, -vv every detail
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

/// What every command is given besides its own options.
pub struct Global {
    /// Results are one JSON object on stdout.
    pub json: bool,
    quiet: bool,
    multi: MultiProgress,
}

impl Global {
    fn new(args: &OutputArgs) -> Result<Global> {
        let multi = progress::multi();
        start_log(args, multi.clone())?;
        interrupt::watch(multi.clone())?;
        Ok(Global { json: args.json, quiet: args.quiet, multi })
    }

    /// Progress for long work.
    pub fn bars(&self) -> Bars {
        let style = if self.quiet || self.json {
            Style::Silent
        } else if std::io::stderr().is_terminal() {
            Style::Bars
        } else {
            Style::Lines
        };
        Bars::new(style, self.multi.clone())
    }
}

/// Log lines go to stderr, between the bars. `RUST_LOG` adds to what the flags ask for.
fn start_log(args: &OutputArgs, multi: MultiProgress) -> Result<()> {
    // the GPU stack says at "info" what belongs to "trace", and warns of things that no user can change
    let (own, others) = match (args.quiet, args.verbose) {
        (true, _) => (LevelFilter::Error, LevelFilter::Off),
        (_, 0) => (LevelFilter::Warn, LevelFilter::Error),
        (_, 1) => (LevelFilter::Info, LevelFilter::Error),
        _ => (LevelFilter::Debug, LevelFilter::Warn),
    };
    let detailed = args.verbose > 1;
    let logger = env_logger::Builder::new()
        .filter_level(others)
        .filter_module("dq_gpu", own)
        .parse_default_env()
        .format(move |line, record| {
            use std::io::Write;
            let level = match record.level() {
                log::Level::Error => "error",
                log::Level::Warn => "warning",
                log::Level::Info => "note",
                log::Level::Debug => "debug",
                log::Level::Trace => "trace",
            };
            let text = one_line(&record.args().to_string());
            match detailed {
                true => writeln!(line, "{level}: {text} ({})", record.target()),
                false => writeln!(line, "{level}: {text}"),
            }
        })
        .build();
    let level = logger.filter();
    LogWrapper::new(multi, logger).try_init()?;
    log::set_max_level(level);
    Ok(())
}

/// Parses the command line, runs one command, prints one clear error.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return answered(&answer),
    };
    let result = Global::new(&cli.output).and_then(|global| match &cli.command {
        // small, and in a process of its own with little memory
        Command::RenderChatTemplate => render::run(),
        work => in_pool(|| command(work, &global)),
    });
    interrupt::ends(result.as_ref().err());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// What clap answers instead of a command: help, the version, or what is wrong with the arguments.
fn answered(answer: &clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(1));
    if answer.use_stderr() && std::env::args_os().any(|arg| arg.to_string_lossy().chars().any(char::is_control)) {
        // it quotes an argument, which may be the name of a file
        visible_lines(&answer.render().to_string()).lines().for_each(tell);
        return code;
    }
    match answer.print() {
        Err(error) if !answer.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            failed(&anyhow::Error::from(error).context("cannot write the help to stdout"))
        }
        _ => code,
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tell(&format!("error: {}", one_line(&format!("{error:#}"))));
    exit_code(error)
}

fn command(command: &Command, global: &Global) -> Result<()> {
    match command {
        Command::Quantize(args) => quantize::run(args, global),
        Command::Imatrix(args) => imatrix::run(args, global),
        Command::Analyze(args) => analyze::run(args, global),
        Command::Plan(args) => plan::run(args, global),
        Command::Kld(args) => kld::run(args, global),
        Command::Inspect(args) => inspect::run(args, global),
        Command::Devices(args) => devices::run(args, global),
        Command::RenderChatTemplate => render::run(),
    }
}

/// Runs `work` on a thread of the pool. Its parallel parts then begin there at once; from outside, each would have to wake up a
/// thread of the pool and wait to be woken up itself, which takes longest where processors are busy.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    // fails only if there is a pool already, which will do
    let _ = rayon::ThreadPoolBuilder::new().stack_size(STACK_BYTES).build_global();
    rayon::scope(|_| work())
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let interrupted = error.chain().any(|cause| cause.is::<Interrupted>());
    if interrupted { INTERRUPTED.into() } else { ExitCode::FAILURE }
}

/// A message on one line, whatever the files that it tells of hold.
fn one_line(text: &str) -> String {
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    visible(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn interrupted_work_has_its_own_exit_code() {
        let code = |error: anyhow::Error| format!("{:?}", exit_code(&error));
        assert_eq!(code(anyhow!(Interrupted).context("writing")), format!("{:?}", ExitCode::from(130)));
        assert_eq!(code(anyhow!("writing")), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn errors_are_one_line() {
        let error = Err::<(), _>(anyhow!("line one\n  line two\n")).context("cannot read: `x`").unwrap_err();
        let message = format!("{error:#}");
        assert_eq!(one_line(&message), "cannot read: `x`: line one line two");
        assert_eq!(one_line("no tensor `a\u{1b}[2J`"), "no tensor `a\\u{1b}[2J`");
    }
}
