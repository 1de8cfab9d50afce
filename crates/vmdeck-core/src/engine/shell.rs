//! `vmdeck shell`: a person, or one command, in a guest that is started for it; or in one that was kept.
//!
//! The person's terminal itself is a front end's; here it is two streams.

use super::{conductor::Shared, journal::Made, launch, reap};
use crate::{
    backend::{self, Ended, Fut, Identity, Lead, Vm, Way},
    command::{Exec, Exit, Input},
    host::{clock, pids},
    transport::{Pin, Session, Step, Target, Terminal, route},
};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    guest::Guest,
};

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
pub async fn running(deps: &backend::Deps, guest: &Guest, machine: Option<&str>) -> Option<(Made, Box<dyn Vm>)> {
    let made = reap::histories(&deps.state).flat_map(|h| h.open.into_values().chain(h.kept.into_values()));
    let made = made.filter(|made| made.guest == guest.id && made.backend == guest.backend);
    let mut made: Vec<Made> = made.filter(|made| machine.is_none_or(|name| made.remnant.name == name)).collect();
    while let Some(made) = made.pop() {
        if let Some(vm) = process_of(&made) {
            return Some((made, vm));
        }
        let row = backend::find(&made.backend).ok()?;
        if let Ok(Some(vm)) = (row.build)(deps).revisit(guest, &made.remnant).await {
            return Some((made, vm));
        }
    }
    None
}

/// A machine whose process is known and lives, at the address where its run reached it.
fn process_of(made: &Made) -> Option<Box<dyn Vm>> {
    let id = &made.remnant.identity;
    let process = id.pid.and_then(pids::lookup)?;
    let is_it = made.address.is_some() && id.uuid.as_ref().is_some_and(|uuid| process.has_arg(uuid));
    is_it.then(|| {
        let (name, identity) = (made.remnant.name.clone(), id.clone());
        Box::new(OtherVm { name, identity, address: made.address, ended: watch::channel(None).0 }) as Box<dyn Vm>
    })
}

/// A machine of a run that goes on, by its generated name, with the record of that run.
pub fn open_machine(state: &Path, name: &str) -> Option<(Made, std::path::PathBuf)> {
    reap::histories(state).find_map(|mut history| Some((history.open.remove(name)?, history.dir)))
}

/// Serves the request in such a machine, which stays.
pub async fn in_running((made, vm): (Made, Box<dyn Vm>), guest: &Guest, request: Request) {
    let progress = |_: Step| {};
    // The key that it showed when it was new.
    let pin = Pin::of(made.host_key.clone());
    let target = Target { guest, vm: vm.as_ref(), created: !vm.adopted(), pin: &pin, progress: &progress };
    let opened = clock::within(guest.boot_timeout, route::open(&target, |_| {})).await;
    let late = || Fault::infra(format!("cannot reach the machine `{}`", vm.name())).hint("`vmdeck cleanup` removes it");
    match opened.unwrap_or_else(|| Err(late())) {
        Ok(session) => {
            request.with(session.as_ref(), guest, &CancellationToken::new()).await;
            let _ = session.close().await;
        }
        Err(fault) => drop(request.done.send(Err(fault))),
    }
    vm.leave();
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

    fn ways(&self) -> &[Way] {
        &[Way { name: "journal" }]
    }

    fn seek<'a>(&'a self, _: &'a Way, _: u16) -> Fut<'a, Vec<Lead>> {
        Box::pin(async { Ok(self.address.map(|address| Lead { address, proven: true }).into_iter().collect()) })
    }

    fn terminate(&mut self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn close(&mut self) -> Fut<'_, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn leave(self: Box<Self>) {}
}
