//! The way into one guest: its console is followed from power-on, its boot is told phase by phase, a session is opened.
//!
//! The order of it all is the controller's; what the console's bytes mean is in `boot`.

use super::{
    boot::{Seen, Watch},
    controller::Link,
    emit::Emit,
    journal::{Journal, Record},
    phases::Phases,
    stamps::Stamps,
};
use crate::{
    backend::{self, Ended, Fut, Vm},
    command::{Exec, Exit, Sink},
    host::{clock, tail::Tail},
    transport::{Pin, Session, Step, Target, route},
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::{EventKind, Meaning, Phase, Stream},
    guest::Guest,
    quantity::show_duration,
};

/// How long the console may lag behind the machine's end.
const LAG: Duration = Duration::from_millis(300);
/// How long an unfinished line may wait for its rest.
const SETTLE: Duration = Duration::from_millis(10);
/// Characters of a console line in an error message.
const LINE: usize = 200;
/// Warnings of one machine that are told; the console log has them all.
const MATCHES: u32 = 100;
/// Console lines in an error message.
const SHOWN: usize = 4;

/// What the console said that stops a boot or a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConsoleError {
    pub(super) pattern: String,
    pub(super) line: String,
    pub(super) context: Vec<String>,
}

/// See the module.
pub(super) struct GuestLink {
    guest: Arc<Guest>,
    emit: Emit,
    journal: Journal,
    pin: Pin,
    phases: Arc<Mutex<Phases>>,
    console: Option<Console>,
    session: Option<Box<dyn Session>>,
    error: Arc<watch::Sender<Option<ConsoleError>>>,
}

struct Console {
    watch: Arc<Mutex<Watch>>,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl GuestLink {
    pub(super) fn new(guest: Arc<Guest>, emit: Emit, journal: Journal, state: &std::path::Path) -> Self {
        let phases = Phases::new(&guest, emit.clone(), state);
        Self {
            guest,
            emit,
            journal,
            pin: Pin::default(),
            phases: Arc::new(Mutex::new(phases)),
            console: None,
            session: None,
            error: Arc::new(watch::channel(None).0),
        }
    }

    /// Becomes something when an error pattern is found on the console.
    pub(super) fn console_error(&self) -> watch::Receiver<Option<ConsoleError>> {
        self.error.subscribe()
    }

    fn phase(&self, to: Phase) {
        self.phases.lock().advance(to);
    }

    fn last_lines(&self) -> Vec<String> {
        let Some(console) = &self.console else { return Vec::new() };
        let lines = console.watch.lock().last_lines();
        lines[lines.len().saturating_sub(SHOWN)..].iter().map(|line| cut(line)).collect()
    }

    /// A fault with the last words of the console as its cause.
    fn with_console(&self, fault: Fault) -> Fault {
        let lines = self.last_lines();
        if lines.is_empty() {
            fault
        } else {
            fault.because(format!("the console's last lines:\n    {}", lines.join("\n    ")))
        }
    }

    fn follow(&self, vm: &dyn Vm) -> Result<Option<Console>> {
        let Some(path) = vm.console() else { return Ok(None) };
        let tail = Tail::follow(path)
            .map_err(|e| Fault::host(format!("cannot follow the console log `{}`", path.display())).because(e))?;
        let watch = Arc::new(Mutex::new(Watch::new(&self.guest.boot)));
        let (ready_in, ready) = watch::channel(false);
        let stop = CancellationToken::new();
        let reader = Reader {
            guest: Arc::clone(&self.guest),
            emit: self.emit.clone(),
            phases: Arc::clone(&self.phases),
            watch: Arc::clone(&watch),
            ready: ready_in,
            error: Arc::clone(&self.error),
            told: AtomicU32::new(0),
        };
        let stamps = Stamps::beside(path, self.emit.clone());
        let task = tokio::spawn(reader.run(tail, stamps, stop.clone()));
        Ok(Some(Console { watch, ready, stop, task }))
    }

    async fn open(&self, vm: &dyn Vm, waiting: &Mutex<String>) -> Result<Box<dyn Session>> {
        if let (Some(pattern), Some(console)) = (&self.guest.boot.pattern, &self.console) {
            note(waiting, format!("the ready pattern `{pattern}` did not appear on the console"));
            let mut ready = console.ready.clone();
            let _ = ready.wait_for(|seen| *seen).await;
            self.phase(Phase::Sshd);
        }
        note(waiting, "no login service answered".into());
        let progress = |step: Step| match step {
            Step::Waiting(why) => note(waiting, format!("no login service answered: {why}")),
            Step::Spoken => {
                note(waiting, "the login service answered and no command could be run".into());
                self.phase(Phase::FirstCommand);
            }
            Step::Sought(sought) if sought.ok => {}
            Step::Sought(sought) => {
                let found = if sought.found.is_empty() { "it was not found".to_owned() } else { sought.why.clone() };
                let why = if sought.why.is_empty() { found } else { sought.why };
                note(waiting, format!("no login service answered; last looked for by {}: {why}", sought.way));
            }
        };
        let target = Target { guest: &self.guest, vm, created: !vm.adopted(), pin: &self.pin, progress: &progress };
        let told = |tried: route::Tried| {
            self.emit.fact(EventKind::RouteTried {
                guest: self.guest.id.clone(),
                transport: tried.transport,
                way: tried.way,
                ok: tried.ok,
                why: tried.why,
                took_ms: tried.took_ms,
                address: tried.address,
            });
        };
        route::open(&target, told).await
    }

    async fn boot(&mut self, vm: &dyn Vm, cancel: &CancellationToken) -> Result<()> {
        let failed = || Fault::infra(format!("cannot boot guest `{}`", self.guest.id));
        // From here on a reaper can recognise the process.
        self.journal.append(&Record::Known {
            name: vm.name().to_owned(),
            identity: vm.identity(),
            console: vm.console_socket().map(std::path::Path::to_owned),
        })?;
        let waiting = Mutex::new(String::new());
        let limit = self.guest.boot_timeout;
        let (mut ended, mut error) = (vm.ended(), self.error.subscribe());
        let session = tokio::select! {
            opened = clock::within(limit, self.open(vm, &waiting)) => if let Some(session) = opened { session.map_err(|inner| failed().caused_by(inner))? } else {
                let why = waiting.lock().clone();
                let why = format!("{} within {}", why.trim_end_matches('.'), show_duration(limit));
                return Err(self.with_console(failed().because(why)).hint(self.what_to_do()).lasting());
            },
            Some(found) = told(&mut error) => return Err(failed().caused_by(console_fault(&found)).lasting()),
            Some(how) = told(&mut ended) => return Err(self.explain_end(&how, failed()).await),
            () = cancel.cancelled() => return Err(Fault::cancelled(format!("cannot boot guest `{}`", self.guest.id)).because("it was cancelled")),
        };
        let address = session.peer();
        let (name, host_key) = (vm.name().to_owned(), self.pin.known());
        self.journal.append(&Record::Reached { name, address, host_key })?;
        self.session = Some(session);
        let mut phases = self.phases.lock();
        phases.close(true);
        phases.remember();
        Ok(())
    }

    /// About a guest that did not answer in time.
    fn what_to_do(&self) -> String {
        let id = &self.guest.id;
        if backend::find(&self.guest.backend).is_ok_and(|row| row.caps.console) {
            return format!(
                "see guests/{id}/console.log in the record; correct `boot.pattern` or the login service, or raise `boot_timeout`"
            );
        }
        format!(
            "see that its sshd runs and `guests.{id}.ssh` has a key or password, or that its guest agent is installed and runs; or raise `boot_timeout`"
        )
    }

    /// The end of the machine during its boot; the console may still be saying why.
    async fn explain_end(&self, how: &Ended, failed: Fault) -> Fault {
        let mut error = self.error.subscribe();
        if let Some(Some(found)) = clock::within(LAG, told(&mut error)).await {
            return failed.caused_by(console_fault(&found)).lasting();
        }
        let fault = self.with_console(failed.because(how));
        if matches!(how, Ended::Panicked(_)) {
            fault.hint("see its console log for the cause of the panic").lasting()
        } else {
            fault
        }
    }
}

/// A line as a message shows it: a flood is one endless line.
fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// The first thing that is told, once it is; `None` = nobody is left to tell it.
pub(super) async fn told<T: Clone>(place: &mut watch::Receiver<Option<T>>) -> Option<T> {
    place.wait_for(Option::is_some).await.ok().and_then(|now| now.clone())
}

fn note(place: &Mutex<String>, text: String) {
    *place.lock() = text;
}

/// An error pattern as a fault, with the lines before it.
pub(super) fn console_fault(found: &ConsoleError) -> Fault {
    let before: Vec<String> =
        found.context[found.context.len().saturating_sub(SHOWN)..].iter().map(|l| cut(l)).collect();
    let context = if before.is_empty() { String::new() } else { format!("\n    {}", before.join("\n    ")) };
    Fault::infra(format!("the console matched the error pattern `{}`", found.pattern))
        .because(format!("{}{context}", cut(&found.line)))
        .hint("see the guest's console log; `boot.errors` lists the patterns")
}

impl Link for GuestLink {
    fn prepare<'a>(&'a mut self, vm: &'a dyn Vm) -> Fut<'a, ()> {
        Box::pin(async move {
            self.console = self.follow(vm)?;
            let has_console = backend::find(&self.guest.backend).is_ok_and(|row| row.caps.console);
            self.phase(if has_console { Phase::Firmware } else { Phase::Launch });
            Ok(())
        })
    }

    fn connect<'a>(&'a mut self, vm: &'a dyn Vm, cancel: &'a CancellationToken) -> Fut<'a, ()> {
        Box::pin(async move {
            let booted = self.boot(vm, cancel).await;
            if let Err(fault) = &booted {
                let mut phases = self.phases.lock();
                phases.close(false);
                if fault.blame() != vmdeck_model::error::Blame::Cancelled {
                    phases.compare();
                }
            }
            booted
        })
    }

    fn not_started(&mut self) {
        self.phases.lock().close(false);
    }

    fn exec<'a>(&'a self, exec: &'a Exec, sink: &'a mut dyn Sink, cancel: &'a CancellationToken) -> Fut<'a, Exit> {
        Box::pin(async move {
            match &self.session {
                Some(session) => session.exec(exec, sink, cancel).await,
                None => Err(Fault::infra("cannot run a command").because("there is no session")),
            }
        })
    }

    fn session(&self) -> Option<&dyn Session> {
        self.session.as_deref()
    }

    fn host_key(&self) -> Option<String> {
        self.pin.known()
    }

    fn close(&mut self) -> Fut<'_, ()> {
        Box::pin(async {
            let closed = match self.session.take() {
                // A dead guest does not answer; nothing depends on the answer.
                Some(session) => clock::within(LAG, session.close()).await.unwrap_or(Ok(())),
                None => Ok(()),
            };
            self.drain().await?;
            closed
        })
    }

    fn drain(&mut self) -> Fut<'_, ()> {
        Box::pin(async {
            if let Some(console) = self.console.take() {
                console.stop.cancel();
                let _ = console.task.await;
            }
            Ok(())
        })
    }
}

/// Follows the console in a task of its own.
struct Reader {
    guest: Arc<Guest>,
    emit: Emit,
    phases: Arc<Mutex<Phases>>,
    watch: Arc<Mutex<Watch>>,
    ready: watch::Sender<bool>,
    error: Arc<watch::Sender<Option<ConsoleError>>>,
    /// Warnings so far.
    told: AtomicU32,
}

impl Reader {
    async fn run(self, mut tail: Tail, mut stamps: Stamps, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                read = tail.next() => match read {
                    Ok(bytes) => {
                        let open_line = !bytes.ends_with(b"\n");
                        let mut bytes = bytes.to_vec();
                        if open_line {
                            // Consoles are written byte by byte: most lines are complete a moment later.
                            clock::sleep(SETTLE).await;
                            bytes.extend_from_slice(tail.now().unwrap_or_default());
                        }
                        stamps.note(bytes.len());
                        self.take(&bytes);
                    }
                    Err(_) => break,
                },
            }
            // A flood must not starve the other tasks of this thread.
            tokio::task::yield_now().await;
        }
        // What was written before the stop still counts; a machine that goes on writing does not hold us.
        for _ in 0..64 {
            match tail.now() {
                Ok([]) | Err(_) => break,
                Ok(bytes) => {
                    stamps.note(bytes.len());
                    self.take(bytes);
                }
            }
        }
    }

    fn take(&self, bytes: &[u8]) {
        let mut watch = self.watch.lock();
        watch.feed(bytes, |seen| self.seen(seen));
    }

    fn seen(&self, seen: Seen) {
        let guest = self.guest.id.clone();
        let phase = |to| self.phases.lock().advance(to);
        match seen {
            Seen::Kernel => phase(Phase::Kernel),
            Seen::Userspace => phase(Phase::Userspace),
            Seen::Line(line) => {
                self.phases.lock().line(&line);
                self.emit.output(EventKind::Output { guest, suite: None, case: None, stream: Stream::Console, line });
            }
            Seen::Match { meaning: Meaning::Warning, .. } if self.told.fetch_add(1, Ordering::Relaxed) >= MATCHES => {}
            Seen::Match { meaning, pattern, line, context } => {
                match meaning {
                    Meaning::Ready => drop(self.ready.send_replace(true)),
                    Meaning::Error => drop(self.error.send_replace(Some(ConsoleError {
                        pattern: pattern.clone(),
                        line: line.clone(),
                        context: context.clone(),
                    }))),
                    Meaning::Warning => {}
                }
                self.emit.fact(EventKind::ConsoleMatch { guest, meaning, pattern, line, context });
            }
        }
    }
}
