//! `vmdeck shell`: a person, or one command, in a guest that is started for it; or in one that was kept.
//!
//! The person's terminal itself is a front end's; here it is two streams.

use super::{conductor::Shared, journal::Made, launch, reap};
use crate::{
    backend::{Ended, Fut, Identity, Vm},
    error::{Fault, Result},
    host::pids,
    model::{
        event::Stream,
        exec::{Exec, Exit, Input},
        guest::Guest,
    },
    transport::{Pin, Session, Step, Target, Terminal, route},
};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Takes the person's terminal over.
pub type OpenTerminal = Box<dyn FnOnce() -> Result<Terminal> + Send + Sync>;

/// What is to be done in the guest.
pub struct Request {
    /// A command; with a terminal and no command, the login shell.
    pub command: Option<String>,
    /// Opens a person's terminal, once the guest is ready: until then Ctrl-C must still reach us.
    pub terminal: Option<OpenTerminal>,
    /// What a command without a terminal reads.
    pub stdin: Input,
    /// What a command without a terminal writes.
    pub output: mpsc::UnboundedSender<(Stream, Vec<u8>)>,
    /// How it ended.
    pub done: oneshot::Sender<Result<Exit>>,
}

impl Request {
    async fn with(self, session: &dyn Session, guest: &Guest, cancel: &CancellationToken) {
        let result = match (self.terminal, self.command) {
            (Some(open), command) => match open() {
                Ok(terminal) => tokio::select! {
                    ended = session.attach(Terminal { command, ..terminal }) => ended,
                    // The window was closed, or somebody wants us gone: the guest goes with the shell.
                    () = cancel.cancelled() => Err(Fault::cancelled("cannot go on with the shell").because("it was cancelled")),
                },
                Err(fault) => Err(fault),
            },
            (None, Some(script)) => {
                let output = self.output;
                let mut sink = move |stream: Stream, bytes: &[u8]| drop(output.send((stream, bytes.to_vec())));
                let exec = Exec { stdin: self.stdin, ..Exec::new(script) };
                session.exec(&exec, &mut sink, cancel).await
            }
            (None, None) => Err(Fault::user(format!("cannot open a shell in `{}`", guest.id))
                .because("standard input is no terminal")
                .hint("give a command: `vmdeck shell GUEST -- COMMAND`")),
        };
        // A caller that is gone does not want to know.
        let _ = self.done.send(result);
    }
}

/// Starts the guest of the plan's only job, serves the request, takes the guest down.
pub(super) async fn run(shared: &Shared, request: Request) {
    let Some(job) = shared.plan.jobs.first() else { return };
    let guest = Arc::new(job.guest.clone());
    let mut machine = match launch::launch(shared, &guest, &mut None).await {
        Ok(machine) => machine,
        Err(fault) => return drop(request.done.send(Err(fault))),
    };
    if let Some(session) = machine.controller.session() {
        request.with(session, &guest, &shared.cancel).await;
    }
    launch::take_down(shared, &guest, &mut machine.controller, &machine.name).await;
}

/// A machine of this guest that runs and can be reached: one that was kept, or one of a run that goes on.
///
/// `machine` = only this one; else the newest of the guest.
pub fn running(state: &Path, guest: &Guest, machine: Option<&str>) -> Option<Made> {
    let made = reap::histories(state).flat_map(|h| h.open.into_values().chain(h.kept.into_values()));
    let made = made.filter(|made| made.guest == guest.id && made.address.is_some());
    let made = made.filter(|made| machine.is_none_or(|name| made.remnant.name == name));
    let mut made: Vec<Made> = made.collect();
    made.retain(|made| {
        let id = &made.remnant.identity;
        let process = id.pid.and_then(pids::lookup);
        process.is_some_and(|p| id.uuid.as_ref().is_some_and(|uuid| p.has_arg(uuid)))
    });
    made.pop()
}

/// A machine of a run that goes on, by its generated name, with the record of that run.
pub fn open_machine(state: &Path, name: &str) -> Option<(Made, std::path::PathBuf)> {
    reap::histories(state).find_map(|mut history| Some((history.open.remove(name)?, history.dir)))
}

/// Serves the request in such a machine, which stays.
pub async fn in_running(made: &Made, guest: &Guest, request: Request) {
    let vm = OtherVm {
        name: made.remnant.name.clone(),
        identity: made.remnant.identity.clone(),
        address: made.address,
        ended: watch::channel(None).0,
    };
    let progress = |_: Step| {};
    // The key that it showed when it was new.
    let pin = Pin::of(made.host_key.clone());
    let target = Target { guest, vm: &vm, created: true, pin: &pin, progress: &progress };
    let opened = tokio::time::timeout(guest.boot_timeout, route::open(&target, |_| {})).await;
    let late = || Fault::infra(format!("cannot reach the machine `{}`", vm.name)).hint("`vmdeck cleanup` removes it");
    match opened.unwrap_or_else(|_| Err(late())) {
        Ok(session) => {
            request.with(session.as_ref(), guest, &CancellationToken::new()).await;
            let _ = session.close().await;
        }
        Err(fault) => drop(request.done.send(Err(fault))),
    }
}

/// A machine of somebody else's: it can be reached and nothing else.
struct OtherVm {
    name: String,
    identity: Identity,
    address: Option<SocketAddr>,
    ended: watch::Sender<Option<Ended>>,
}

impl Vm for OtherVm {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn console(&self) -> Option<&Path> {
        None
    }

    fn start(&mut self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    fn address(&self, _: u16) -> Fut<'_, Option<SocketAddr>> {
        Box::pin(async { Ok(self.address) })
    }

    fn terminate(&mut self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn close(&mut self) -> Fut<'_, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn leave(self: Box<Self>) {}
}
