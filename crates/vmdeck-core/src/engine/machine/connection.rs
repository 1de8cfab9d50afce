//! The connection to one guest: its console is followed from power-on, its boot is reported phase by phase, a session is
//! opened.
//!
//! The order of it all is the controller's.

use super::{
    ConsoleWatch,
    boot_phases::BootPhases,
    connection_start::ConnectionStart,
    console_error::{SHOWN, cut},
    console_reader::{ConsoleListener, ConsoleReader, LogStart},
    console_watch::{self, ConsoleLine},
    controller::Connection,
    first_boot,
    machine_lock::{self, LockOutcome, MachineLock},
    private_network::{self, NetworkPlace},
    recv_once, shares,
    snapshots::{Renewal, SnapshotBook, renew},
    waiting::{self, WaitingReason},
};
use crate::{
    backend::{
        self,
        capabilities::ConsoleKind,
        contract::{GuestPort, Machine, MachineExit},
    },
    command::{CommandExit, OutputSink, RemoteCommand},
    engine::{
        admission::Reservation,
        context::RunContext,
        controls::RunControls,
        events::EventSender,
        journal::{Journal, Record},
        kernel_reach::KernelReach,
        phase_events::PhaseEvents,
    },
    host::{clock, info},
    transport::{
        contract::{ConnectProgress, ConnectTarget},
        pin::Pin,
        route::{self, RouteAttempt},
        session::Session,
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{EventKind, Phase},
    guest::Guest,
    quantity::show_duration,
    secret::Redactor,
};

/// How long a guest that an earlier run kept may take to answer.
const ANSWERS: Duration = Duration::from_secs(20);
/// How long a guest that stalls may take to write its stacks.
const STACKS: Duration = Duration::from_secs(10);
/// How long until a phase is looked for again where none is open whose silence is known.
const LOOK: Duration = Duration::from_secs(1);
/// How long the console may lag behind the machine's end.
const LAG: Duration = Duration::from_millis(300);

/// The connection to one guest.
pub(super) struct GuestConnection {
    guest: Arc<Guest>,
    events: EventSender,
    journal: Journal,
    redactor: Redactor,
    /// The most bytes of the console's log.
    log_size: u64,
    pin: Pin,
    phases: Arc<Mutex<BootPhases>>,
    console: Option<ConsoleReader>,
    session: Option<Arc<dyn Session>>,
    /// The lock of a machine that other hosts may use.
    lock: Option<MachineLock>,
    lock_timeout: Duration,
    /// How this run is called in such a machine.
    owner: String,
    controls: Arc<RunControls>,
    /// Its place in the private network of its job.
    place: Option<NetworkPlace>,
    watch: ConsoleWatch,
    /// How many kernels had begun on the console when the guest was up.
    kernels_at_boot: u32,
    /// The reader's end, until it reads.
    line: Option<ConsoleLine>,
    start: ConnectionStart,
    snapshots: Arc<SnapshotBook>,
    /// The memory that this host has promised to its machine.
    memory: Option<Arc<Reservation>>,
}

impl GuestConnection {
    pub(super) fn new(
        context: &RunContext,
        guest: &Arc<Guest>,
        place: Option<NetworkPlace>,
        memory: Option<Arc<Reservation>>,
    ) -> Self {
        let (watch, line) = console_watch::pair();
        let phases = BootPhases::new(guest, context.events.clone(), &context.backend.state);
        Self {
            guest: Arc::clone(guest),
            events: context.events.clone(),
            journal: context.journal.clone(),
            redactor: context.redactor.clone(),
            log_size: context.plan.host.log_size,
            pin: Pin::default(),
            phases: Arc::new(Mutex::new(phases)),
            console: None,
            session: None,
            lock: None,
            lock_timeout: context.plan.host.lock_timeout,
            owner: format!("{}, run {}", info::host_name(), context.plan.run.short()),
            controls: Arc::clone(&context.controls),
            place,
            watch,
            kernels_at_boot: 0,
            line: Some(line),
            start: ConnectionStart::Boot,
            snapshots: Arc::clone(&context.snapshots),
            memory,
        }
    }

    /// Returns the connection to a guest that is up since an earlier run, which has pinned its host key.
    pub(super) fn of_kept(self, pin: Pin) -> Self {
        Self { pin, start: ConnectionStart::Up, ..self }
    }

    /// Returns the connection to a guest that goes on from a snapshot, in which its host key was pinned.
    pub(super) fn of_restored(self, pin: Pin, renewal: Renewal) -> Self {
        Self { pin, start: ConnectionStart::Restored(renewal), ..self }
    }

    /// Returns what is known of the console.
    pub(super) fn console_watch(&self) -> ConsoleWatch {
        self.watch.clone()
    }

    fn phase(&self, to: Phase) {
        self.phases.lock().advance(to);
    }

    fn console_kind(&self) -> ConsoleKind {
        backend::capabilities_of(&self.guest.backend).console
    }

    fn shows_boot(&self) -> bool {
        self.console_kind().shows_boot()
    }

    /// Returns a fault with the console's last lines as its cause.
    fn with_console(&self, fault: Fault) -> Fault {
        let lines = self.console.as_ref().map(ConsoleReader::last_lines).unwrap_or_default();
        let lines: Vec<String> = lines[lines.len().saturating_sub(SHOWN)..].iter().map(|line| cut(line)).collect();
        if lines.is_empty() {
            fault
        } else {
            fault.because(format!("the console's last lines:\n    {}", lines.join("\n    ")))
        }
    }

    fn follow(&mut self, log: &Path) -> Result<ConsoleReader> {
        let line = self.line.take().ok_or_else(|| Fault::bug("the console is followed already"))?;
        let listener = ConsoleListener {
            guest: Arc::clone(&self.guest),
            events: self.events.clone(),
            phases: Arc::clone(&self.phases),
            line,
            redactor: self.redactor.clone(),
            log_size: self.log_size,
        };
        let from = if matches!(self.start, ConnectionStart::Up) { LogStart::Now } else { LogStart::Beginning };
        ConsoleReader::start(log, from, listener)
    }

    /// Opens a session, however long the guest takes.
    async fn open(&self, machine: &dyn Machine, waiting: &WaitingReason) -> Result<Box<dyn Session>> {
        // A log of what the provider does never shows what the guest writes when it is ready.
        let console = self.console.as_ref().filter(|_| self.shows_boot());
        if let (Some(pattern), Some(console), false) = (&self.guest.boot.pattern, console, self.start.is_up()) {
            waiting.ready_pattern(pattern.source());
            console.until_ready().await;
            self.phase(Phase::Service);
        }
        waiting.service();
        let progress = |step: ConnectProgress| {
            waiting.step(&step);
            if step == ConnectProgress::ServiceAnswers {
                self.phase(Phase::FirstCommand);
            }
        };
        let target = ConnectTarget { guest: &self.guest, machine, pin: &self.pin, progress: &progress };
        let report = |attempt: RouteAttempt| {
            self.events.send(EventKind::RouteTried {
                guest: self.guest.id.clone(),
                transport: attempt.transport,
                way: attempt.method.map(|method| method.to_string()),
                ok: attempt.ok,
                why: attempt.reason,
                took_ms: attempt.took_ms,
                address: attempt.address,
            });
        };
        loop {
            let session = route::open(&target, report).await?;
            // A provider's own tool answers only when its guest is set up.
            if session.peer().is_none() || self.start.is_up() {
                return Ok(session);
            }
            waiting.first_boot();
            match first_boot::finished(&self.guest, session.as_ref()).await {
                Ok(note) => {
                    if let Some(text) = note {
                        self.events.warn(Some(&self.guest.id), text, None);
                    }
                    return Ok(session);
                }
                Err(fault) if !fault.is_worth_a_retry() => return Err(fault),
                // A first boot may restart its services, or the guest.
                Err(_) => {}
            }
        }
    }

    /// Opens a session; a guest that restarts by itself meanwhile begins again, as often as it may.
    async fn open_through_restarts(
        &self,
        machine: &dyn Machine,
        waiting: &WaitingReason,
        mut restarts: Option<&mut watch::Receiver<u32>>,
    ) -> Result<Box<dyn Session>> {
        loop {
            let restarted = async {
                if let Some(restarts) = restarts.as_mut()
                    && restarts.changed().await.is_ok()
                {
                    return *restarts.borrow_and_update();
                }
                std::future::pending().await
            };
            let count = tokio::select! {
                session = self.open(machine, waiting) => return session,
                count = restarted => count,
            };
            if let Some(most) = self.guest.boot.restarts.filter(|most| count > *most) {
                return Err(Fault::infra("the guest restarted while it booted")
                    .because(format!("{count} times, and `boot.restarts` is {most}"))
                    .permanent());
            }
            let text = format!("guest `{}` restarted by itself while it booted ({count})", self.guest.id);
            self.events.warn(Some(&self.guest.id), text, None);
            if let Some(console) = &self.console {
                console.not_ready();
            }
            self.phases.lock().restart();
        }
    }

    async fn boot(&mut self, machine: &dyn Machine, cancel: &CancellationToken) -> Result<()> {
        let failed = || Fault::infra(format!("cannot boot guest `{}`", self.guest.id));
        // From here on a reaper can recognise the process.
        self.journal.append(&Record::Known {
            name: machine.name().to_owned(),
            identity: machine.id(),
            console: machine.console().and_then(|console| console.socket).map(Path::to_owned),
        })?;
        if let Some(on) = machine.member() {
            let (machine, on) = (machine.name().to_owned(), on.to_owned());
            self.events.send(EventKind::MachinePlaced { guest: self.guest.id.clone(), machine, on });
        }
        if let Some(keys) = machine.kernel_keys() {
            let (guest, console, events) = (self.guest.id.clone(), self.watch.clone(), self.events.clone());
            let reach = KernelReach { guest, keys, console, events, turn: Arc::default() };
            self.controls.reach_kernel(&self.guest.id, Some(reach));
        }
        if let ConnectionStart::Restored(renewal) = self.start {
            self.phases.lock().close(true);
            if renewal == Renewal::ByPort {
                // Before anybody looks at a clock, or begins a connection with random numbers.
                let port = machine.renewal_port().await;
                self.renew(port.as_ref()).await.map_err(|inner| failed().caused_by(inner))?;
            }
            self.phase(Phase::Service);
        }
        let waiting = WaitingReason::default();
        // One that is up answers at once, or it is of no use.
        let limit = if self.start.is_up() { ANSWERS.min(self.guest.boot_timeout) } else { self.guest.boot_timeout };
        let (mut exit, mut error) = (machine.exit(), self.watch.error());
        let mut restarts = machine.restarts();
        let told = follow_userspace(machine.userspace(), Arc::clone(&self.phases));
        let session = tokio::select! {
            never = told => match never {},
            opened = clock::within(limit, self.open_through_restarts(machine, &waiting, restarts.as_mut())) => {
                let Some(session) = opened else {
                    let why = format!("{} within {}", waiting.text().trim_end_matches('.'), show_duration(limit));
                    let fault = self.with_console(failed().because(why)).hint(waiting::late_hint(&self.guest, self.shows_boot())).permanent();
                    self.ask_for_stacks(machine, cancel).await;
                    return Err(fault);
                };
                session.map_err(|inner| failed().caused_by(inner))?
            }
            silent = self.stalls() => {
                // What the guest itself said last, before the stacks.
                let fault = self.with_console(failed().because(silent)).hint("raise or remove `boot.watchdog`").permanent();
                self.ask_for_stacks(machine, cancel).await;
                return Err(fault);
            }
            Some(found) = recv_once(&mut error) => return Err(failed().caused_by(found.to_fault()).permanent()),
            Some(how) = recv_once(&mut exit) => return Err(self.explain_exit(&how, failed()).await),
            () = cancel.cancelled() => {
                let what = format!("cannot boot guest `{}`", self.guest.id);
                return Err(Fault::cancelled(what).because("it was cancelled"));
            }
        };
        let session: Arc<dyn Session> = Arc::from(session);
        shares::mount(session.as_ref(), machine.shared_folders()).await?;
        if let Some(note) = private_network::join(session.as_ref(), self.place.as_ref()).await? {
            self.events.warn(Some(&self.guest.id), self.redactor.text(&note), None);
        }
        if machine.is_shared() {
            self.take_lock(&session, cancel).await?;
        }
        let address = session.peer();
        let (name, host_key) = (machine.name().to_owned(), self.pin.known());
        self.journal.append(&Record::Reached { name, address, host_key })?;
        self.session = Some(session);
        self.kernels_at_boot = *self.watch.kernels().borrow();
        self.phases.lock().close(true);
        match std::mem::replace(&mut self.start, ConnectionStart::Boot) {
            ConnectionStart::Boot => self.phases.lock().remember(),
            // What it took to come back to one that was up says nothing about boots.
            ConnectionStart::Restored(Renewal::ByShell) => self.renew(None).await?,
            ConnectionStart::Up | ConnectionStart::Restored(Renewal::ByPort | Renewal::None) => {}
        }
        Ok(())
    }

    /// Gives a guest that goes on from a snapshot what must be its own: by its port, else by the session.
    async fn renew(&self, port: Option<&GuestPort>) -> Result<()> {
        let phase = PhaseEvents::begin(&self.events, &self.guest.id, Phase::Renew, None);
        let renewed = async {
            match (port, &self.session) {
                (Some(port), _) => renew::by_port(port, &self.snapshots).await,
                (None, Some(session)) => renew::by_shell(session.as_ref(), &self.snapshots).await,
                (None, None) => Err(Fault::infra("cannot renew the guest").because("its port is not there")),
            }
        };
        for note in phase.around(renewed).await? {
            let text = format!("guest `{}` goes on from a snapshot: {note}", self.guest.id);
            self.events.warn(Some(&self.guest.id), self.redactor.text(&text), None);
        }
        Ok(())
    }

    /// Asks a guest that does not come up for its stacks, where it can be asked; they go to its console.
    async fn ask_for_stacks(&self, machine: &dyn Machine, cancel: &CancellationToken) {
        if let Some(stacks) = machine.stacks() {
            let asked = async {
                tokio::select! {
                    _ = stacks.dump() => {}
                    () = cancel.cancelled() => {}
                }
            };
            let _ = self.watch.muted(STACKS, asked).await;
        }
    }

    /// Waits until the console has been silent for longer than it ever is at that point of a boot; returns that as a sentence.
    async fn stalls(&self) -> String {
        if self.guest.boot.watchdog == 0 {
            return std::future::pending().await;
        }
        loop {
            let may = self.phases.lock().may_be_silent();
            let Some((until, limit)) = may else {
                // What is open now may not be what is open next.
                clock::sleep(LOOK).await;
                continue;
            };
            clock::sleep_until(until).await;
            let still = self.phases.lock().may_be_silent();
            if still == may {
                let phase = self.phases.lock().phase().map_or("boot", Phase::as_str);
                return format!("its console has said nothing for {} in the phase `{phase}`", show_duration(limit));
            }
        }
    }

    /// Locks a machine that other hosts may use; one that cannot be locked is said.
    async fn take_lock(&mut self, session: &Arc<dyn Session>, cancel: &CancellationToken) -> Result<()> {
        let id = &self.guest.id;
        let tell = |other: &str| {
            let text = format!("guest `{id}`: waiting for another run that uses this machine: {other}");
            self.events.send(EventKind::Progress { guest: Some(id.clone()), text: self.redactor.text(&text) });
        };
        match machine_lock::take(session, &self.owner, self.lock_timeout, tell, cancel).await? {
            LockOutcome::Held(lock) => self.lock = Some(lock),
            LockOutcome::Impossible => {
                let text =
                    format!("guest `{id}`: its machine cannot be locked, so nothing keeps runs of other hosts off it");
                let hint = "install `flock` (util-linux) in it, or set `remote.lock = false`".to_owned();
                self.events.warn(Some(id), text, Some(hint));
            }
        }
        Ok(())
    }

    /// Returns why the machine ended during its boot; the console may still be saying it.
    async fn explain_exit(&self, how: &MachineExit, failed: Fault) -> Fault {
        let mut error = self.watch.error();
        if let Some(Some(found)) = clock::within(LAG, recv_once(&mut error)).await {
            return failed.caused_by(found.to_fault()).permanent();
        }
        let fault = self.with_console(failed.because(how));
        if matches!(how, MachineExit::Panicked(_)) {
            fault.hint("see its console log for the cause of the panic").permanent()
        } else {
            fault
        }
    }
}

/// Begins the phase of the guest's programs each time that the hypervisor tells of one: a quiet console does not.
async fn follow_userspace(told: Option<watch::Receiver<bool>>, phases: Arc<Mutex<BootPhases>>) -> Infallible {
    if let Some(mut told) = told {
        while told.wait_for(|runs| *runs).await.is_ok() {
            phases.lock().advance(Phase::Userspace);
            if told.wait_for(|runs| !*runs).await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}

impl Connection for GuestConnection {
    fn prepare<'a>(&'a mut self, machine: &'a dyn Machine) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.console = machine.console().map(|console| self.follow(console.log)).transpose()?;
            // Where nothing is read nobody must wait for an answer.
            self.line = None;
            self.phase(match &self.start {
                ConnectionStart::Restored(_) => Phase::Restore,
                ConnectionStart::Boot if self.console_kind().shows_firmware() => Phase::Firmware,
                ConnectionStart::Boot | ConnectionStart::Up => Phase::Launch,
            });
            Ok(())
        })
    }

    fn connect<'a>(&'a mut self, machine: &'a dyn Machine, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            Reservation::note_process(self.memory.as_deref(), &machine.id()).await;
            let booted = self.boot(machine, cancel).await;
            if let Err(fault) = &booted {
                let mut phases = self.phases.lock();
                phases.close(false);
                if fault.blame() != Blame::Cancelled {
                    phases.compare();
                }
            }
            booted
        })
    }

    fn reconnect<'a>(
        &'a mut self,
        machine: &'a dyn Machine,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // It went with the boot that it was taken in.
            self.lock = None;
            // The other end is gone.
            self.hang_up().await;
            if let Some(console) = &self.console {
                if *self.watch.kernels().borrow() == self.kernels_at_boot {
                    console.not_ready();
                } else {
                    console.not_ready_before(self.kernels_at_boot);
                }
            }
            self.phases.lock().begin_again();
            self.connect(machine, cancel).await
        })
    }

    fn hang_up(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(session) = self.session.take() {
                let _ = clock::within(LAG, session.close()).await;
            }
        })
    }

    fn resume<'a>(&'a mut self, machine: &'a dyn Machine, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        self.start = ConnectionStart::Up;
        self.connect(machine, cancel)
    }

    fn not_started(&mut self) {
        self.phases.lock().close(false);
    }

    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(async move {
            match &self.session {
                Some(session) => session.run(command, sink, cancel).await,
                None => Err(Fault::infra("cannot run a command").because("there is no session")),
            }
        })
    }

    fn session(&self) -> Option<&dyn Session> {
        self.session.as_deref()
    }

    fn shared_session(&self) -> Option<Arc<dyn Session>> {
        self.session.clone()
    }

    fn host_key(&self) -> Option<String> {
        self.pin.known()
    }

    fn close(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.lock = None;
            let closed = match self.session.take() {
                // A dead guest does not answer; nothing depends on the answer.
                Some(session) => clock::within(LAG, session.close()).await.unwrap_or(Ok(())),
                None => Ok(()),
            };
            self.drain().await?;
            closed
        })
    }

    fn drain(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            if let Some(console) = self.console.take() {
                console.drain().await;
            }
            Ok(())
        })
    }
}
