//! A machine that is up and belongs to one job for a while.

use super::{ConsoleError, ConsoleWatch, controller::Controller};
use crate::{
    assets::snapshot::SnapshotFacts,
    backend::{contract::MachineExit, record::KeptMachine},
    command::{Collected, RemoteCommand, Shell},
    engine::admission::Reservation,
    host::clock,
    transport::session::{CommandRunner, Session},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    ids::SuiteId,
};

/// How long a guest may take to show that it is the one that it was.
const ANSWER: Duration = Duration::from_secs(5);

/// How long until a guest is asked again that was there all the same.
const AGAIN: Duration = Duration::from_secs(1);

/// A machine that is up.
pub(in crate::engine) struct LeasedMachine {
    /// The generated name.
    pub(in crate::engine) name: String,
    pub(in crate::engine) controller: Controller,
    /// Holds how the machine ended, once it has.
    pub(in crate::engine) exit: watch::Receiver<Option<MachineExit>>,
    /// What its console shows.
    pub(in crate::engine) console: ConsoleWatch,
    /// Counts the restarts of the guest that nobody asked for.
    pub(in crate::engine) restarts: watch::Receiver<u32>,
    /// Whether anybody counts them.
    counts_restarts: bool,
    /// How many there were when it was up.
    restarts_at_boot: u32,
    /// How many kernels had begun when it was up.
    kernels_at_boot: u32,
    /// Whether another kernel has taken over since it was up, of which no hypervisor hears.
    has_new_kernel: AtomicBool,
    /// What is known of it where an earlier run kept it.
    kept: Option<KeptMachine>,
    /// The snapshot that it goes on from, and the key of that.
    origin: Option<(String, SnapshotFacts)>,
    /// Whether it was frozen, and stands still since.
    is_frozen: bool,
    /// The memory that this host has promised to it.
    memory: Option<Arc<Reservation>>,
    /// Set when a command outside of a case showed that the machine cannot be used any more.
    unusable: AtomicBool,
}

impl LeasedMachine {
    pub(super) fn new(
        name: String,
        controller: Controller,
        exit: watch::Receiver<Option<MachineExit>>,
        console: ConsoleWatch,
        restarts: Option<watch::Receiver<u32>>,
    ) -> Self {
        let counts_restarts = restarts.is_some();
        let restarts = restarts.unwrap_or_else(|| watch::channel(0).1);
        let (restarts_at_boot, kernels_at_boot) = (*restarts.borrow(), *console.kernels().borrow());
        Self {
            name,
            controller,
            exit,
            console,
            restarts,
            counts_restarts,
            restarts_at_boot,
            kernels_at_boot,
            has_new_kernel: AtomicBool::new(false),
            kept: None,
            origin: None,
            is_frozen: false,
            memory: None,
            unusable: AtomicBool::new(false),
        }
    }

    /// Returns the session in the guest, or a fault that blames the environment where there is none.
    pub(in crate::engine) fn session(&self) -> Result<&dyn Session> {
        self.controller.session().ok_or_else(|| Fault::infra("there is no session"))
    }

    /// Notes that an earlier run kept it: it stays kept.
    pub(super) fn of_kept(self, kept: KeptMachine) -> Self {
        Self { kept: Some(kept), ..self }
    }

    /// Notes that it goes on from a snapshot.
    pub(super) fn going_on_from(self, key: &str, facts: SnapshotFacts) -> Self {
        Self { origin: Some((key.to_owned(), facts)), ..self }
    }

    /// Notes the memory that this host has promised to it: from now on it is used.
    pub(super) async fn with_memory(self, memory: Arc<Reservation>) -> Self {
        memory.note_machine(self.controller.id().as_ref()).await;
        Self { memory: Some(memory), ..self }
    }

    /// Returns the memory that this host has promised to it; `None` = none, or its own process alone holds it.
    pub(super) fn memory(&self) -> Option<&Reservation> {
        self.memory.as_deref()
    }

    /// Notes that it was frozen.
    pub(super) fn set_frozen(&mut self) {
        self.is_frozen = true;
    }

    /// Returns whether it was frozen: there is nothing to do but to end it.
    pub(in crate::engine) fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Returns the key of the snapshot that it goes on from, and what is known of that.
    pub(super) fn origin(&self) -> Option<(&str, &SnapshotFacts)> {
        self.origin.as_ref().map(|(key, facts)| (key.as_str(), facts))
    }

    /// Returns whether the code is in it and the setup of this suite was run, since it goes on from where that was so.
    pub(in crate::engine) fn is_set_up_for(&self, suite: &SuiteId) -> bool {
        self.origin().is_some_and(|(_, facts)| facts.suite.as_deref() == Some(suite.as_str()))
    }

    /// Returns whether some suite's setup was run in it.
    pub(in crate::engine) fn is_set_up(&self) -> bool {
        self.origin().is_some_and(|(_, facts)| facts.suite.is_some())
    }

    /// Returns what is known of it where an earlier run kept it.
    pub(in crate::engine) fn kept(&self) -> Option<&KeptMachine> {
        self.kept.as_ref()
    }

    /// Returns the language of commands in it, by what its session says.
    pub(in crate::engine) fn shell(&self) -> Shell {
        self.controller.session().map_or(Shell::Posix, CommandRunner::shell)
    }

    /// Returns whether the machine cannot be used any more.
    pub(in crate::engine) fn is_lost(&self) -> bool {
        self.unusable.load(Ordering::Relaxed) || self.is_gone()
    }

    /// Returns whether the machine itself is no more, or not what it was: nothing in it can be asked.
    pub(in crate::engine) fn is_gone(&self) -> bool {
        self.crash().is_some() || self.exit.borrow().is_some()
    }

    /// Returns what says that the system in it crashed: it panicked, restarted, or powered itself off.
    pub(in crate::engine) fn crash(&self) -> Option<Fault> {
        let failed = || Fault::infra("the guest's system crashed");
        if let Some(panic) = self.console.error_now().filter(ConsoleError::is_panic) {
            return Some(panic.to_fault());
        }
        if self.has_restarted() {
            return Some(failed().because("it restarted"));
        }
        self.exit.borrow().as_ref().filter(|how| how.is_by_guest()).map(|how| failed().because(how))
    }

    /// Returns whether its hypervisor tells of restarts of the guest.
    pub(in crate::engine) fn tells_restarts(&self) -> bool {
        self.counts_restarts
    }

    /// Returns whether the guest has restarted since it was up.
    fn has_restarted(&self) -> bool {
        *self.restarts.borrow() > self.restarts_at_boot || self.has_new_kernel.load(Ordering::Relaxed)
    }

    /// Waits for a restart of the guest.
    pub(in crate::engine) async fn restarted(&self) {
        let (mut restarts, before) = (self.restarts.clone(), self.restarts_at_boot);
        let told = async {
            if restarts.wait_for(|count| *count > before).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = told => {}
            () = self.new_kernel() => self.has_new_kernel.store(true, Ordering::Relaxed),
        }
    }

    /// Waits until another kernel has taken over without a restart of the machine (kexec). The console shows it; what shows the same
    /// although the old kernel still answers is a text that somebody wrote there.
    async fn new_kernel(&self) {
        let (mut kernels, mut before) = (self.console.kernels(), self.kernels_at_boot);
        while let Ok(count) = kernels.wait_for(|count| *count > before).await.map(|count| *count) {
            let (mut unseen, never) = (Collected::default(), CancellationToken::new());
            let command = RemoteCommand::new("");
            let asked = clock::within(ANSWER, self.controller.run(&command, &mut unseen, &never)).await;
            if !matches!(asked, Some(Ok(_))) {
                return;
            }
            before = count;
            // Whoever writes such lines all the time is not asked all the time.
            clock::sleep(AGAIN).await;
        }
        std::future::pending::<()>().await;
    }

    /// Waits until the machine has ended, or the guest in it has restarted.
    pub(in crate::engine) async fn down(&self) {
        let mut exit = self.exit.clone();
        tokio::select! {
            _ = recv_once(&mut exit) => {}
            () = self.restarted() => {}
        }
    }

    /// Returns whether the guest began again by itself and lives on, as far as is known.
    pub(in crate::engine) fn only_restarted(&self) -> bool {
        self.has_restarted() && self.exit.borrow().is_none() && self.console.error_now().is_none()
    }

    /// Waits until the guest, which begins again, is up.
    pub(in crate::engine) async fn come_back(&mut self, cancel: &CancellationToken) -> Result<()> {
        self.begin_again();
        let back = self.controller.reconnect(cancel).await;
        // A boot may take more than one.
        self.begin_again();
        back
    }

    /// Notes that what there was of restarts is over.
    fn begin_again(&mut self) {
        self.restarts_at_boot = *self.restarts.borrow();
        self.kernels_at_boot = *self.console.kernels().borrow();
        self.has_new_kernel = AtomicBool::new(false);
    }

    /// Notes that the machine cannot be used any more.
    pub(in crate::engine) fn give_up(&self) {
        self.unusable.store(true, Ordering::Relaxed);
    }
}

/// Returns the value of a place that is filled once, as soon as it is; `None` = nobody is left to fill it.
pub(in crate::engine) async fn recv_once<T: Clone>(place: &mut watch::Receiver<Option<T>>) -> Option<T> {
    place.wait_for(Option::is_some).await.ok().and_then(|now| now.clone())
}
