//! `vmdeck shell`: a person, or one command, in a guest that is started for it; or in one that is up already.
//!
//! The person's terminal itself is a front end's; here it is two streams.

use super::{
    context::RunContext,
    journal::JournalState,
    machine::{self, LaunchFor, LeasedMachine, Permits, recv_once},
    reap,
};
use crate::{
    backend::{self, BackendDeps, contract::Machine, record::MachineRecord},
    command::{CommandExit, Input, RemoteCommand, Shell, sh_quote},
    context::CallContext,
    host::clock,
    transport::{
        contract::ConnectTarget,
        pin::Pin,
        route,
        session::{Session, TerminalStreams},
    },
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::Stream,
    guest::Guest,
    text::Clean,
};

/// How long finding a machine that is up may take.
const REATTACH: Duration = Duration::from_mins(1);

/// How long the machine's own end may come after the connection's.
const LAG: Duration = Duration::from_millis(500);
/// How long a command that took too long may take to end.
const END: Duration = Duration::from_secs(15);

/// Takes over the person's terminal.
pub type OpenTerminal = Box<dyn FnOnce() -> Result<TerminalStreams> + Send + Sync>;

/// How a shell or a command came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShellEnd {
    /// It ended by itself.
    Exit(CommandExit),
    /// It took longer than it may, and was ended.
    TimedOut,
    /// The guest's system crashed meanwhile.
    Crashed(Fault),
}

/// A command of a person's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShellCommand {
    /// A text in the language of the guest's shell.
    Text(String),
    /// A program and its arguments, each as it is.
    Words(Vec<String>),
}

impl ShellCommand {
    fn text(self, shell: Shell) -> String {
        match self {
            ShellCommand::Text(text) => text,
            ShellCommand::Words(words) => shell.words(&words),
        }
    }
}

/// What is to be done in the guest.
pub struct ShellRequest {
    /// The command; with a terminal and no command, the login shell.
    pub command: Option<ShellCommand>,
    /// The working directory; `None` = the login directory. A person's shell opens there if it exists.
    pub dir: Option<String>,
    /// The variables to set.
    pub env: BTreeMap<String, String>,
    /// How long a command without a terminal may take; `None` = as long as it wants.
    pub limit: Option<Duration>,
    /// Opens a person's terminal, once the guest is ready: until then Ctrl-C must still reach us.
    pub terminal: Option<OpenTerminal>,
    /// The checkpoint in which it is served, where a machine is made for it.
    pub checkpoint: Option<String>,
    /// What a command without a terminal reads.
    pub stdin: Input,
    /// What a command without a terminal writes.
    pub output: mpsc::UnboundedSender<(Stream, Vec<u8>)>,
    /// Gets how the command or the shell ended.
    pub done: oneshot::Sender<Result<ShellEnd>>,
}

impl ShellRequest {
    /// Serves the request; `machine` = what is watched meanwhile.
    async fn serve(
        self,
        session: &dyn Session,
        machine: Option<&LeasedMachine>,
        guest: &Guest,
        cancel: &CancellationToken,
    ) {
        let Self { command, dir, env, limit, terminal: wanted, stdin, output, done, checkpoint: _ } = self;
        let command = command.map(|command| command.text(session.shell()));
        let work = async {
            match (wanted, command) {
                (Some(open), command) => {
                    let command = match command {
                        Some(command) => Some(command),
                        None => login(session, dir.as_deref(), &env, cancel).await?,
                    };
                    terminal(session, open, command, cancel).await.map(ShellEnd::Exit)
                }
                (None, Some(script)) => {
                    let mut sink = move |stream: Stream, bytes: &[u8]| drop(output.send((stream, bytes.to_vec())));
                    let command = RemoteCommand { env, dir, stdin, ..RemoteCommand::new(script) };
                    within(limit, cancel, |token| async move { session.run(&command, &mut sink, &token).await }).await
                }
                (None, None) => Err(Fault::user(format!("cannot open a shell in `{}`", guest.id))
                    .because("standard input is not a terminal")
                    .hint(GIVE_A_COMMAND)),
            }
        };
        let end = match machine {
            None => work.await,
            Some(machine) => tokio::select! {
                biased;
                end = work => match end {
                    // The end of the machine may come after that of the connection.
                    Err(fault) if fault.blame() == Blame::Infra => match clock::within(LAG, crashed(machine)).await {
                        Some(Ok(crash)) => Ok(ShellEnd::Crashed(crash)),
                        _ => Err(fault),
                    },
                    end => end,
                },
                crash = crashed(machine) => crash.map(ShellEnd::Crashed),
            },
        };
        // A caller that is gone does not want to know.
        let _ = done.send(end);
    }
}

/// Runs a command for as long as it may take; one that is ended for its time ends with all that it started.
async fn within<F>(
    limit: Option<Duration>,
    cancel: &CancellationToken,
    run: impl FnOnce(CancellationToken) -> F,
) -> Result<ShellEnd>
where
    F: Future<Output = Result<CommandExit>>,
{
    let token = cancel.child_token();
    let work = run(token.clone());
    tokio::pin!(work);
    let Some(limit) = limit else { return work.await.map(ShellEnd::Exit) };
    if let Some(exit) = clock::within(limit, &mut work).await {
        return exit.map(ShellEnd::Exit);
    }
    token.cancel();
    // That it could not be ended matters little: its guest goes with it.
    let _ = clock::within(END, work).await;
    Ok(ShellEnd::TimedOut)
}

/// Waits for the end of the guest's system; an error where it is not its own doing.
async fn crashed(machine: &LeasedMachine) -> Result<Fault> {
    let (mut exit, mut error) = (machine.exit.clone(), machine.console.error());
    let lost = || Fault::infra("cannot finish the command");
    let panicked = async {
        match recv_once(&mut error).await {
            Some(found) if found.is_panic() => found,
            // What else is an error for a case ends no person's shell.
            _ => std::future::pending().await,
        }
    };
    let fault = tokio::select! {
        found = panicked => lost().caused_by(found.to_fault()),
        Some(how) = recv_once(&mut exit) => lost().because(how),
        () = machine.restarted() => lost().because("the guest restarted"),
    };
    // The console may be behind the machine's end.
    let _ = machine.console.catch_up().await;
    machine.crash().ok_or(fault)
}

/// Returns the command that opens a login shell in a folder, if it is there, with these variables; `None` = the login shell opens
/// where it does. The variables go by a file that only this user can read: a command line is for everybody to read.
async fn login(
    session: &dyn Session,
    dir: Option<&str>,
    env: &BTreeMap<String, String>,
    cancel: &CancellationToken,
) -> Result<Option<String>> {
    if session.shell() != Shell::Posix || (dir.is_none() && env.is_empty()) {
        return Ok(None);
    }
    let mut command = String::new();
    if !env.is_empty() {
        let file = sh_quote(&write_variables(session, env, cancel).await?);
        command.push_str(&format!(". {file}; rm -f -- {file}; "));
    }
    if let Some(dir) = dir {
        command.push_str(&format!("cd -- {} 2>/dev/null; ", sh_quote(dir)));
    }
    command.push_str("exec \"${SHELL:-/bin/sh}\" -l");
    Ok(Some(command))
}

/// Writes variables to a file in the guest that a shell can read; returns its path.
async fn write_variables(
    session: &dyn Session,
    env: &BTreeMap<String, String>,
    cancel: &CancellationToken,
) -> Result<String> {
    let quoted = r#"quoted() { printf %s "$1" | sed "s/'/'\\\\''/g"; }"#;
    let each: String =
        env.keys().map(|name| format!("printf \"export {name}='%s'\\n\" \"$(quoted \"${name}\")\"\n")).collect();
    let script =
        format!("umask 077\nfile=$(mktemp) || exit\n{quoted}\n{{\n{each}}} > \"$file\" && printf %s \"$file\"");
    let command = RemoteCommand { env: env.clone(), ..RemoteCommand::new(script) };
    let (mut path, mut words) = (Vec::new(), Vec::new());
    let mut sink = |stream: Stream, bytes: &[u8]| match stream {
        Stream::Stdout => path.extend_from_slice(bytes),
        _ => words.extend_from_slice(bytes),
    };
    let exit = session.run(&command, &mut sink, cancel).await?;
    let path = String::from_utf8_lossy(&path).into_owned();
    if exit == CommandExit::Code(0) && path.starts_with('/') {
        return Ok(path);
    }
    let why = Clean::from_text(String::from_utf8_lossy(&words).trim()).into_string();
    Err(Fault::infra("cannot give the shell its environment").because(if why.is_empty() {
        exit.to_string()
    } else {
        why
    }))
}

const GIVE_A_COMMAND: &str = "give a command: `vmdeck shell GUEST -- COMMAND`";

async fn terminal(
    session: &dyn Session,
    open: OpenTerminal,
    command: Option<String>,
    cancel: &CancellationToken,
) -> Result<CommandExit> {
    let power = session.terminal().map_err(|none| {
        let hint = match none.instead {
            Some(instead) => format!("`{instead}`, or {GIVE_A_COMMAND}"),
            None => GIVE_A_COMMAND.to_owned(),
        };
        Fault::user("cannot open a shell")
            .because(format!("the transport `{}` has no terminal", session.kind()))
            .hint(hint)
    })?;
    let streams = TerminalStreams { command, ..open()? };
    tokio::select! {
        ended = power.attach(streams) => ended,
        // The window was closed, or somebody wants us gone: the guest goes with the shell.
        () = cancel.cancelled() => Err(Fault::cancelled("cannot continue the shell").because("it was cancelled")),
    }
}

/// Returns whether some transport of the guest may give a person a terminal.
pub fn may_have_terminal(guest: &Guest) -> bool {
    let rows = route::usable(guest).unwrap_or_default();
    rows.iter().any(|(row, usable)| usable.is_ok() && row.transport.has_terminal())
}

/// Starts the guest of the plan's only job, serves the request, takes the guest down.
pub(super) async fn run(context: &RunContext, request: ShellRequest) {
    let Some(job) = context.plan.jobs.first() else { return };
    let guest = Arc::new(job.guest().clone());
    let Some(permits) = Permits::acquire(&context.permits, 1).await else { return };
    let wanted = LaunchFor { checkpoint: request.checkpoint.as_deref(), ..LaunchFor::default() };
    let machine = match machine::launch(context, &guest, wanted, &permits).await {
        Ok(machine) => machine,
        Err(fault) => return drop(request.done.send(Err(fault))),
    };
    if let Some(session) = machine.controller.session() {
        request.serve(session, Some(&machine), &guest, &context.cancel).await;
    }
    machine::take_down(context, &guest, machine).await;
}

/// A machine that is up and that a run of ours has made or adopted, with what the journal knows about it.
pub struct RunningGuest {
    record: MachineRecord,
    machine: Box<dyn Machine>,
}

/// Returns a machine of this guest of the config in `folder` that is up: one that was kept, or one of a run that is in progress.
/// `name` = only this machine; else the newest of the guest.
pub async fn running(deps: &BackendDeps, folder: &Path, guest: &Guest, name: Option<&str>) -> Option<RunningGuest> {
    let all = |state: JournalState| state.open.into_values().chain(state.kept.into_values());
    let mut records: Vec<MachineRecord> = reap::journal_states(&deps.state)
        .filter(|state| state.folder == folder || state.folder.as_os_str().is_empty())
        .flat_map(all)
        .filter(|record| record.guest == guest.id && record.backend == guest.backend)
        .filter(|record| name.is_none_or(|name| record.name == name))
        .collect();
    let never = CancellationToken::new();
    while let Some(record) = records.pop() {
        let backend = (backend::find(&record.backend).ok()?.build)(deps);
        let context = CallContext::new(REATTACH, &never);
        let reattached = context.run("find the machine", backend.reattach(guest, &record, context)).await;
        if let Ok(Some(machine)) = reattached {
            return Some(RunningGuest { record, machine });
        }
    }
    None
}

/// Returns the record of a machine of a run that is in progress, by its generated name, with the folder of that run's
/// record.
pub fn open_machine(state: &Path, name: &str) -> Option<(MachineRecord, PathBuf)> {
    reap::journal_states(state).find_map(|mut state| Some((state.open.remove(name)?, state.dir)))
}

/// Serves the request in a machine that is up, and stays up.
pub async fn in_running(running: RunningGuest, guest: &Guest, request: ShellRequest) {
    let RunningGuest { record, machine } = running;
    // The key that it showed when it was new.
    let pin = Pin::of(record.host_key);
    let target = ConnectTarget { guest, machine: machine.as_ref(), pin: &pin, progress: &|_| {} };
    let opened = clock::within(guest.boot_timeout, route::open(&target, |_| {})).await;
    let late =
        || Fault::infra(format!("cannot reach the machine `{}`", machine.name())).hint("`vmdeck cleanup` removes it");
    match opened.unwrap_or_else(|| Err(late())) {
        Ok(session) => {
            request.serve(session.as_ref(), None, guest, &CancellationToken::new()).await;
            let _ = session.close().await;
        }
        Err(fault) => drop(request.done.send(Err(fault))),
    }
    machine.detach();
}
