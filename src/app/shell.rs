//! `vmdeck shell GUEST [-- CMD...]`: a kept machine if there is one, else one that is started for it.
//!
//! The terminal is `attach`'s, the machine the engine's.

use super::{Io, deps::deps, settings, terminal};
use crate::cli::ConfigArgs;
use parking_lot::Mutex;
use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};
use vmdeck_core::{
    command::{CommandExit, Input, sh_quote},
    engine::{self, EngineDeps, shell},
    host::{random, signal},
};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{EventKind, Phase, Stream},
    exit::RunExit,
    guest::Guest,
    ids::RunId,
    plan::{Job, Plan, RunOptions},
};

pub(super) async fn run(
    name: &str,
    machine: Option<&str>,
    command: &[String],
    config: &ConfigArgs,
    io: &mut Io<'_>,
) -> Result<u8> {
    let setup = settings::load_for(config, &std::iter::once(name.to_owned()).collect())?;
    let known: Vec<&str> = setup.guests.iter().map(|g| g.id.as_str()).collect();
    let unknown = || Fault::user(format!("cannot open a shell: unknown guest `{name}` (known: {})", known.join(", ")));
    let guest = setup.guests.iter().find(|g| g.id.as_str() == name).ok_or_else(unknown)?.clone();
    let deps = deps(&setup.host)?;
    let (output, mut written) = mpsc::unbounded_channel::<(Stream, Vec<u8>)>();
    let (done, mut ended) = oneshot::channel();
    // One word is a command line; several are an argument list.
    let command = match command {
        [] => None,
        [line] => Some(line.clone()),
        words => Some(words.iter().map(|w| sh_quote(w)).collect::<Vec<_>>().join(" ")),
    };
    let wants_terminal = terminal::is_terminal() && command.is_none();
    if !wants_terminal && command.is_none() {
        return Err(Fault::user(format!("cannot open a shell in `{name}`"))
            .because("standard input is not a terminal")
            .hint("give a command: `vmdeck shell GUEST -- COMMAND`"));
    }
    if wants_terminal && !shell::may_have_terminal(&guest) {
        return Err(Fault::user(format!("cannot open a shell in `{name}`"))
            .because("commands reach it only by `exec`, which has no terminal")
            .hint(format!("give a command: `vmdeck shell {name} -- COMMAND`; or set `guests.{name}.ssh.key`")));
    }
    let raw: Arc<Mutex<Option<terminal::RawMode>>> = Arc::default();
    let place = Arc::clone(&raw);
    let open: shell::OpenTerminal = Box::new(move || {
        let (mode, terminal) = terminal::terminal()?;
        *place.lock() = Some(mode);
        Ok(terminal)
    });
    // As with ssh, a command reads what is piped in.
    let stdin = if std::io::stdin().is_terminal() { Input::Empty } else { Input::Stdin };
    let request = shell::ShellRequest { command, terminal: wants_terminal.then_some(open), stdin, output, done };
    let mut record = None;
    let mut run = None;
    if let Some(running) = shell::running(&deps, &guest, machine).await {
        tokio::spawn(async move { shell::in_running(running, &guest, request).await });
    } else if let Some(machine) = machine {
        return Err(Fault::infra(format!("cannot open a shell in `{name}`"))
            .because(format!("its machine `{machine}` is gone")));
    } else {
        let (handle, dir) = start(guest, setup.host, deps, request)?;
        record = Some(dir);
        run = Some(handle);
    }
    let restore = || drop(raw.lock().take());
    let is_raw = || raw.lock().is_some();
    let mut result = None;
    loop {
        tokio::select! {
            Some((stream, bytes)) = written.recv() => {
                let target: &mut (dyn Write + Send) = if stream == Stream::Stderr { io.err } else { io.out };
                let _ = target.write_all(&bytes).and_then(|()| target.flush());
            }
            // Raw mode ends with the shell, before the clean-up speaks.
            ended = &mut ended, if result.is_none() => {
                restore();
                result = Some(ended);
                if run.is_none() { break }
            }
            event = next(&mut run), if run.is_some() => match event {
                Some(event) => tell(&event.kind, is_raw(), io),
                None => break,
            },
        }
    }
    while let Ok((stream, bytes)) = written.try_recv() {
        let target: &mut (dyn Write + Send) = if stream == Stream::Stderr { io.err } else { io.out };
        let _ = target.write_all(&bytes);
    }
    let exit = match run.take() {
        Some(run) => run.done.await.ok(),
        None => None,
    };
    // Only a shell that failed leaves something to look at.
    let failed = matches!(&result, Some(Ok(Err(fault))) if fault.blame() != Blame::Cancelled)
        || matches!(exit, Some(RunExit::Leftover | RunExit::Bug | RunExit::Infra));
    if let Some(dir) = record.filter(|_| !failed) {
        let _ = std::fs::remove_dir_all(dir);
    }
    match (result, exit) {
        // The command went well and the guest's end did not.
        (Some(Ok(Ok(_))), Some(exit @ (RunExit::Leftover | RunExit::Bug | RunExit::Infra))) => Ok(exit.code()),
        (Some(Ok(Ok(CommandExit::Code(code)))), _) => Ok(u8::try_from(code).unwrap_or(1)),
        (Some(Ok(Ok(CommandExit::Signal(signal)))), _) => {
            Err(Fault::infra("cannot finish the command").because(format!("it was killed by SIG{signal}")))
        }
        // Which signal ended it is known to the engine.
        (Some(Ok(Err(fault))), Some(exit)) if fault.blame() == Blame::Cancelled => {
            io.warn(&fault.render());
            Ok(exit.code())
        }
        (Some(Ok(Err(fault))), _) => Err(fault),
        (_, Some(exit)) => Ok(exit.code()),
        _ => Err(Fault::infra("cannot open the shell")),
    }
}

async fn next(run: &mut Option<engine::Handle>) -> Option<vmdeck_model::event::Event> {
    match run {
        Some(run) => run.events.next().await,
        None => std::future::pending().await,
    }
}

fn start(
    guest: Guest,
    host: vmdeck_model::plan::HostConfig,
    backend: vmdeck_core::backend::BackendDeps,
    request: shell::ShellRequest,
) -> Result<(engine::Handle, PathBuf)> {
    let run = RunId::from_bits(random::u64());
    let dir = backend.state.join("shells").join(run.short());
    vmdeck_files::make_folders(&dir).map_err(|e| Fault::host(format!("cannot make `{}`", dir.display())).because(e))?;
    let plan = Plan {
        run,
        dir: dir.clone(),
        host,
        options: RunOptions::default(),
        jobs: vec![Job::new(guest, Vec::new())],
        selection: vec!["shell".into()],
    };
    let signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let deps = EngineDeps { backend, binary: std::env::current_exe().ok(), signals: Some(signals) };
    Ok((engine::start_shell(plan, deps, request), dir))
}

/// Writes what a person who waits for a shell wants to know to standard error.
fn tell(kind: &EventKind, raw: bool, io: &mut Io<'_>) {
    // In raw mode a newline alone does not go back to the first column.
    let mut say = |text: &str| {
        let end = if raw { "\r\n" } else { "\n" };
        let _ = write!(io.err, "{text}{end}");
    };
    match kind {
        EventKind::LockWaiting { holder, .. } => {
            say(&format!("waiting for the host lock, held by {holder}"));
        }
        EventKind::PreflightFinding(f) if f.severity == vmdeck_model::event::Severity::Fatal => {
            say(&format!("FATAL {}", f.text));
            if let Some(hint) = &f.hint {
                say(&format!("      hint: {hint}"));
            }
        }
        EventKind::PhaseStarted { guest, phase: Phase::Create, .. } => say(&format!("starting {guest} ...")),
        EventKind::Retrying { why, .. } => say(&format!("trying again: {why}")),
        EventKind::CleanupEnded { guest, left, kept: false, adopted, .. } if left.is_empty() => {
            say(&format!("{} {guest} (verified)", if *adopted { "put back" } else { "removed" }));
        }
        EventKind::CleanupEnded { left, .. } => left.iter().for_each(|what| say(&format!("NOT CLEANED UP: {what}"))),
        _ => {}
    }
}
