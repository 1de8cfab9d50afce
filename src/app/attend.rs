//! A person, or one command, in one guest: their terminal or streams, and what the engine tells meanwhile.
//!
//! What is asked of the engine is `shell`'s and `boot`'s matter.

use super::{Io, terminal};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use vmdeck_core::{
    backend::BackendDeps,
    command::Input,
    engine::{self, EngineDeps, shell, shell::ShellCommand},
    host::{capacity::HostMeter, random, signal},
};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{EventKind, Phase, Severity, Stream},
    exit::RunExit,
    guest::Guest,
    ids::RunId,
    job::Job,
    memory::WaitingMemory,
    plan::{HostConfig, Plan, RunOptions},
};

/// What is to be done in the guest.
pub(super) struct Wanted {
    /// The command; `None` = a shell on our terminal.
    pub(super) command: Option<ShellCommand>,
    /// The working directory; `None` = the login directory.
    pub(super) dir: Option<String>,
    /// The variables to set.
    pub(super) env: BTreeMap<String, String>,
    /// How long the command may take.
    pub(super) limit: Option<Duration>,
    /// Whether a person gets a terminal.
    pub(super) terminal: bool,
}

/// How it went.
pub(super) struct Attended {
    /// How the shell or the command ended; `None` = it was never begun.
    pub(super) end: Option<Result<shell::ShellEnd>>,
    /// How the run around it ended, if there was one.
    pub(super) run: Option<RunExit>,
    /// The record of the run, if it failed and so was kept.
    pub(super) record: Option<PathBuf>,
}

/// Our end of a request.
pub(super) struct Attendance {
    raw: Arc<Mutex<Option<terminal::RawMode>>>,
    written: mpsc::UnboundedReceiver<(Stream, Vec<u8>)>,
    ended: oneshot::Receiver<Result<shell::ShellEnd>>,
}

/// Returns words as a command: one word is a text for the guest's shell.
pub(super) fn command_line(words: &[String]) -> Option<ShellCommand> {
    match words {
        [] => None,
        [line] => Some(ShellCommand::Text(line.clone())),
        words => Some(ShellCommand::Words(words.to_vec())),
    }
}

/// Returns the request to the engine, and our end of it.
pub(super) fn request(wanted: Wanted) -> (shell::ShellRequest, Attendance) {
    let (output, written) = mpsc::unbounded_channel();
    let (done, ended) = oneshot::channel();
    let raw: Arc<Mutex<Option<terminal::RawMode>>> = Arc::default();
    let place = Arc::clone(&raw);
    let open: shell::OpenTerminal = Box::new(move || {
        let (mode, terminal) = terminal::terminal()?;
        *place.lock() = Some(mode);
        Ok(terminal)
    });
    // As with ssh, a command reads what is piped in.
    let stdin = if std::io::stdin().is_terminal() { Input::Empty } else { Input::Stdin };
    let Wanted { command, dir, env, limit, terminal } = wanted;
    let request = shell::ShellRequest {
        command,
        dir,
        env,
        limit,
        terminal: terminal.then_some(open),
        stdin,
        output,
        done,
        checkpoint: None,
    };
    (request, Attendance { raw, written, ended })
}

/// Starts a guest for a request.
pub(super) fn start(
    guest: Guest,
    host: HostConfig,
    options: RunOptions,
    backend: BackendDeps,
    request: shell::ShellRequest,
) -> Result<(engine::Handle, PathBuf)> {
    let run = RunId::from_bits(random::u64());
    let dir = backend.state.join("shells").join(run.short());
    vmdeck_files::make_folders(&dir).map_err(|e| Fault::host(format!("cannot make `{}`", dir.display())).because(e))?;
    let plan = Plan {
        usual_ms: std::collections::BTreeMap::new(),
        part: vmdeck_model::shard::RunPart::default(),
        quarantine: vmdeck_model::quarantine::Quarantine::default(),
        run,
        config: None,
        folder: std::env::current_dir().unwrap_or_default(),
        dir: dir.clone(),
        host,
        options,
        jobs: vec![Job::new(guest, Vec::new())],
        selection: vec!["shell".into()],
    };
    let signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let deps = EngineDeps {
        backend,
        binary: std::env::current_exe().ok(),
        meter: Arc::new(HostMeter),
        signals: Some(signals),
    };
    Ok((engine::start_shell(plan, deps, request), dir))
}

impl Attendance {
    /// Passes on what comes until everything has ended; `tell` is called with each event, and with how a line ends now. `run` = the
    /// run that was started for it, with its record.
    pub(super) async fn attend(
        mut self,
        run: Option<(engine::Handle, PathBuf)>,
        mut tell: impl FnMut(&EventKind, &str, &mut Io<'_>),
        io: &mut Io<'_>,
    ) -> Attended {
        let (mut run, record) = run.unzip();
        let mut end = None;
        loop {
            tokio::select! {
                Some((stream, bytes)) = self.written.recv() => pass_on(stream, &bytes, io),
                // Raw mode ends with the shell, before the clean-up speaks.
                ended = &mut self.ended, if end.is_none() => {
                    drop(self.raw.lock().take());
                    end = Some(ended);
                    if run.is_none() { break }
                }
                event = next(&mut run), if run.is_some() => match event {
                    Some(event) => {
                        // In raw mode a newline alone does not go back to the first column.
                        let line_end = if self.raw.lock().is_some() { "\r\n" } else { "\n" };
                        tell(&event.kind, line_end, io);
                    }
                    None => break,
                },
            }
        }
        while let Ok((stream, bytes)) = self.written.try_recv() {
            pass_on(stream, &bytes, io);
        }
        let exit = match run.take() {
            Some(run) => run.done.await.ok(),
            None => None,
        };
        let end = end.and_then(std::result::Result::ok);
        // Only what failed leaves something to look at.
        let failed = match &end {
            Some(Err(fault)) => fault.blame() != Blame::Cancelled,
            Some(Ok(shell::ShellEnd::Crashed(_))) => true,
            _ => false,
        } || matches!(exit, Some(RunExit::Leftover | RunExit::Bug | RunExit::Infra));
        if let Some(dir) = record.as_ref().filter(|_| !failed) {
            let _ = std::fs::remove_dir_all(dir);
        }
        Attended { end, run: exit, record: record.filter(|_| failed) }
    }
}

fn pass_on(stream: Stream, bytes: &[u8], io: &mut Io<'_>) {
    let target: &mut (dyn Write + Send) = if stream == Stream::Stderr { io.err } else { io.out };
    let _ = target.write_all(bytes).and_then(|()| target.flush());
}

async fn next(run: &mut Option<engine::Handle>) -> Option<vmdeck_model::event::Event> {
    match run {
        Some(run) => run.events.next().await,
        None => std::future::pending().await,
    }
}

/// Writes what nobody should miss who waits for a guest: why it does not begin, and what could not be cleaned up.
pub(super) fn tell_trouble(kind: &EventKind, line_end: &str, io: &mut Io<'_>) {
    let mut say = |text: &str| drop(write!(io.err, "{text}{line_end}"));
    match kind {
        EventKind::LockWaiting { holder, .. } => {
            say(&format!("waiting for the host lock, held by {holder}"));
        }
        EventKind::MemoryWaiting { guest, with, needs, left, place, promised, .. } => {
            say(&WaitingMemory { guest, with, needs: *needs, left: *left, place: *place, promised }.to_string());
        }
        EventKind::PreflightFinding(f) if f.severity == Severity::Fatal => {
            say(&format!("FATAL {}", f.text));
            if let Some(hint) = &f.hint {
                say(&format!("      hint: {hint}"));
            }
        }
        EventKind::Retrying { why, .. } => say(&format!("trying again: {why}")),
        EventKind::CleanupEnded { left, .. } => left.iter().for_each(|what| say(&format!("NOT CLEANED UP: {what}"))),
        _ => {}
    }
}

/// Writes what a person who waits for a shell wants to know as well: that its guest comes and goes.
pub(super) fn tell_all(kind: &EventKind, line_end: &str, io: &mut Io<'_>) {
    match kind {
        EventKind::PhaseStarted { guest, phase: Phase::Create, .. } => {
            let _ = write!(io.err, "starting {guest} ...{line_end}");
        }
        EventKind::CleanupEnded { guest, left, kept: false, adopted, .. } if left.is_empty() => {
            let done = if *adopted { "put back" } else { "removed" };
            let _ = write!(io.err, "{done} {guest} (verified){line_end}");
        }
        kind => tell_trouble(kind, line_end, io),
    }
}
