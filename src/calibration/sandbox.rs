//! Chat templates in a process of their own, which may be ended whatever a template does.
//!
//! Nothing inside a process stops a value that holds itself from running through the stack when it is printed, or an
//! allocation that the system refuses. So this program starts itself once more, hands over one conversation at a time,
//! and does without the template when no answer comes.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::conversation::Conversation;
use super::template::{ChatTemplate, Renderer, Rendering, Setup};

/// Time that a template may take beyond its share.
const PATIENCE: Duration = Duration::from_secs(10);
/// What each conversation adds to that.
const SHARE: Duration = Duration::from_millis(100);
/// How soon an interruption is noticed.
const TICK: Duration = Duration::from_millis(50);
/// Longest message between the two processes, by far longer than a conversation of any model's context.
const MAX_MESSAGE: usize = 16 << 20;
/// Longest answer: what a template may print, with every byte escaped.
const MAX_ANSWER: usize = 512 << 20;
/// Stack of the thread that renders.
const STACK: usize = 64 << 20;

/// A model's chat template, rendered by another process.
pub struct Sandbox<'a> {
    command: Box<dyn Fn() -> Result<Command> + Sync + 'a>,
    /// Fails when the user has had enough.
    check: Box<dyn Fn() -> Result<()> + Sync + 'a>,
    setup: Setup,
    state: Mutex<State>,
}

enum State {
    /// No conversation has come yet.
    Idle,
    Running(Worker),
    Unusable(String),
}

impl<'a> Sandbox<'a> {
    /// `command` starts a process that calls [`serve`]; that happens with the first conversation.
    pub fn new(
        setup: Setup,
        command: impl Fn() -> Result<Command> + Sync + 'a,
        check: impl Fn() -> Result<()> + Sync + 'a,
    ) -> Self {
        Self { command: Box::new(command), check: Box::new(check), setup, state: Mutex::new(State::Idle) }
    }
}

impl Sandbox<'_> {
    fn start(&self) -> Result<State> {
        let mut worker = Worker::start((self.command)()?)?;
        let Some(setup) = message(&self.setup) else {
            return Ok(State::Unusable(format!("it has more than {} MiB", MAX_MESSAGE >> 20)));
        };
        Ok(match worker.ask(&setup, &self.check)? {
            Rendering::Text(..) => State::Running(worker),
            Rendering::Rejected(reason) | Rendering::Unusable(reason) => State::Unusable(reason),
        })
    }
}

impl Renderer for Sandbox<'_> {
    fn exists(&self) -> bool {
        self.setup.exists()
    }

    fn rendering(&self, conversation: &Conversation) -> Result<Rendering> {
        let Some(request) = message(conversation) else {
            return Ok(Rendering::Rejected(format!("it has more than {} MiB", MAX_MESSAGE >> 20)));
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Idle = *state {
            *state = self.start()?;
        }
        let answer = match &mut *state {
            State::Idle => unreachable!("started above"),
            State::Unusable(reason) => Rendering::Unusable(reason.clone()),
            State::Running(worker) => worker.ask(&request, &self.check)?,
        };
        if let Rendering::Unusable(reason) = &answer {
            *state = State::Unusable(reason.clone());
        }
        Ok(answer)
    }
}

/// The other process.
struct Worker {
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<Vec<u8>>,
    left: Duration,
}

impl Worker {
    fn start(mut command: Command) -> Result<Self> {
        // Ctrl-C is this process's to handle
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        #[cfg(windows)]
        std::os::windows::process::CommandExt::creation_flags(&mut command, 0x200);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("cannot start a process to render chat templates in")?;
        let (sender, answers) = channel();
        let mut output = child.stdout.take().expect("piped");
        let requests = child.stdin.take();
        thread::spawn(move || {
            while let Ok(answer) = receive(&mut output, MAX_ANSWER) {
                if sender.send(answer).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, requests, answers, left: PATIENCE })
    }

    /// Sends one message and waits for the answer to it.
    fn ask(&mut self, request: &[u8], check: &dyn Fn() -> Result<()>) -> Result<Rendering> {
        check()?;
        let start = Instant::now();
        self.left += SHARE;
        let sent = self.requests.as_mut().map(|requests| send(requests, request));
        if !matches!(sent, Some(Ok(()))) {
            return Ok(Rendering::Unusable(ENDED.to_owned()));
        }
        loop {
            match self.answers.recv_timeout(TICK) {
                Ok(answer) => {
                    self.left = self.left.saturating_sub(start.elapsed());
                    let text = serde_json::from_slice(&answer);
                    return Ok(text.unwrap_or_else(|_| Rendering::Unusable(ENDED.to_owned())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    check()?;
                    return Ok(Rendering::Unusable(ENDED.to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    check()?;
                    if start.elapsed() > self.left {
                        return Ok(Rendering::Unusable(format!("it takes longer than {} s", PATIENCE.as_secs())));
                    }
                }
            }
        }
    }
}

const ENDED: &str = "it needs too much memory, or nests too deep";

impl Drop for Worker {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other side: answers on `output` what comes from `input`, until that ends. Never returns.
pub fn serve(mut input: impl Read, mut output: impl Write + Send + 'static) -> Result<()> {
    let (requests, waiting) = channel::<Vec<u8>>();
    thread::Builder::new().stack_size(STACK).spawn(move || {
        // whatever goes wrong, the asking side sees that no answer comes
        if answer_all(waiting, &mut output).is_err() {
            std::process::exit(1);
        }
    })?;
    let mut requests: Option<Sender<_>> = Some(requests);
    // when the other process has ended there is nobody left to render for
    while let Ok(request) = receive(&mut input, MAX_MESSAGE) {
        if let Some(sender) = requests.as_ref()
            && sender.send(request).is_err()
        {
            requests = None;
        }
    }
    std::process::exit(0)
}

fn answer_all(requests: Receiver<Vec<u8>>, output: &mut impl Write) -> Result<()> {
    let setup: Setup = parse(&requests.recv()?)?;
    let template = match ChatTemplate::from_setup(setup) {
        Ok(template) => {
            answer(output, &Rendering::Text(String::new(), None))?;
            template
        }
        Err(error) => return answer(output, &Rendering::Unusable(error.to_string())),
    };
    for request in requests {
        let rendering = match parse(&request) {
            Ok(conversation) => template.rendering(&conversation)?,
            // one that nests too deep
            Err(error) => Rendering::Rejected(error.to_string()),
        };
        answer(output, &rendering)?;
    }
    Ok(())
}

fn answer(output: &mut impl Write, rendering: &Rendering) -> Result<()> {
    send(output, &serde_json::to_vec(rendering)?)?;
    Ok(())
}

fn parse<T: DeserializeOwned>(message: &[u8]) -> Result<T> {
    Ok(serde_json::from_slice(message)?)
}

/// `None` if it is too long.
fn message(value: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok().filter(|message| message.len() <= MAX_MESSAGE)
}

fn send(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    to.write_all(&(message.len() as u64).to_le_bytes())?;
    to.write_all(message)?;
    to.flush()
}

fn receive(from: &mut impl Read, longest: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > longest as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = Vec::new();
    from.take(length).read_to_end(&mut message)?;
    if message.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}
