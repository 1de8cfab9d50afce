//! The VM controller: one machine, five states, every guard in one place.
//!
//! The table of transitions is `model::lifecycle`; what runs inside the guest is behind [`Connection`]. Decisions that differ from
//! the controller that this one replaces: a guest that ends by itself is released before it counts as `Terminated`, and
//! its end in `Invalid` changes nothing there, so a release that failed is always tried again.

use crate::{
    backend::{
        contract::{Machine, MachineExit, Stats},
        proof::Proof,
        record::MachineId,
    },
    command::{CommandExit, OutputSink, RemoteCommand},
    context::CallContext,
    host::{clock, failpoint},
    transport::session::Session,
};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    lifecycle::{MachineState, Trigger},
};

/// The connection to the guest, as the controller needs it.
pub trait Connection: Send + Sync {
    /// Gets ready to listen before the machine runs, so that its first bytes are not lost.
    fn prepare<'a>(&'a mut self, machine: &'a dyn Machine) -> BoxFuture<'a, Result<()>>;
    /// Waits for the guest and connects to it.
    fn connect<'a>(&'a mut self, machine: &'a dyn Machine, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>>;
    /// Waits for a guest that begins again by itself, and connects to it anew.
    fn reconnect<'a>(&'a mut self, _: &'a dyn Machine, _: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Err(Fault::bug("cannot connect to the guest again")) })
    }
    /// Ends the session; the machine and its console go on.
    fn hang_up(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    /// Connects to a guest that is up as it was, and was hung up on.
    fn resume<'a>(&'a mut self, _: &'a dyn Machine, _: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Err(Fault::bug("cannot connect to the guest again")) })
    }
    /// Runs a command in the guest.
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>>;
    /// Notes that the machine did not start: there is nothing to listen to.
    fn not_started(&mut self) {}
    /// Returns the open session.
    fn session(&self) -> Option<&dyn Session> {
        None
    }
    /// Returns the open session for who goes on with it beside others.
    fn shared_session(&self) -> Option<Arc<dyn Session>> {
        None
    }
    /// Returns the host key that the guest showed, if its transport has such keys.
    fn host_key(&self) -> Option<String> {
        None
    }
    /// Closes the connection.
    fn close(&mut self) -> BoxFuture<'_, Result<()>>;
    /// Waits until everything that the console wrote has been taken in.
    fn drain(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// How long a machine may take to be powered on; backends have tighter limits of their own.
const START: Duration = Duration::from_mins(30);

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// When the machine stopped.
    pub stopped: DateTime<Utc>,
    /// How the machine ended, if it ended by itself.
    pub exit: Option<MachineExit>,
}

/// The function that is called at every change of state, with the reason.
pub type OnChange = Box<dyn Fn(MachineState, MachineState, &str) + Send + Sync>;

/// One machine under control.
pub struct Controller {
    state: MachineState,
    machine: Option<Box<dyn Machine>>,
    connection: Box<dyn Connection>,
    on_change: OnChange,
    started: Option<DateTime<Utc>>,
    stopped: Option<DateTime<Utc>>,
    exit: Option<MachineExit>,
    /// Whether `start` ever reached the machine: one that never ran is not terminated, only released.
    powered: bool,
    proofs: Vec<String>,
    swallowed: Vec<Fault>,
}

impl Controller {
    /// Returns a controller without a machine.
    pub fn new(connection: Box<dyn Connection>, on_change: OnChange) -> Self {
        Self {
            state: MachineState::NotCreated,
            machine: None,
            connection,
            on_change,
            started: None,
            stopped: None,
            exit: None,
            powered: false,
            proofs: Vec::new(),
            swallowed: Vec::new(),
        }
    }

    /// Returns the state of the machine.
    pub fn state(&self) -> MachineState {
        self.state
    }

    /// Returns the machine, while it has not been released.
    pub fn machine(&self) -> Option<&dyn Machine> {
        self.machine.as_deref()
    }

    /// Returns what is known about the machine for sure.
    pub fn id(&self) -> Option<MachineId> {
        self.machine.as_ref().map(|machine| machine.id())
    }

    /// Returns how the absence of everything was proven.
    pub fn proofs(&self) -> &[String] {
        &self.proofs
    }

    /// Returns the errors on the way down that did not stop it.
    pub fn swallowed(&self) -> &[Fault] {
        &self.swallowed
    }

    fn step(&mut self, trigger: Trigger, why: &str) {
        if let Some(next) = self.state.next(trigger) {
            let from = std::mem::replace(&mut self.state, next);
            if from != next {
                (self.on_change)(from, next, why);
            }
        }
    }

    fn wrong_state(&self, verb: &str) -> Fault {
        Fault::infra(format!("cannot {verb} the machine")).because(format!("it is in state {}", self.state))
    }

    fn running(&self, verb: &str) -> Result<&dyn Machine> {
        match (&self.machine, self.state) {
            (Some(machine), MachineState::Running) => Ok(machine.as_ref()),
            _ => Err(self.wrong_state(verb)),
        }
    }

    /// Makes the machine; a failure leaves `NotCreated`, so it can be tried again.
    pub async fn create(&mut self, make: impl Future<Output = Result<Box<dyn Machine>>>) -> Result<()> {
        if self.state != MachineState::NotCreated {
            return Err(self.wrong_state("create"));
        }
        failpoint::pass("create-begin");
        let made = make.await?;
        failpoint::pass("create-done");
        self.machine = Some(made);
        self.step(Trigger::CreateOk, "made by the backend");
        Ok(())
    }

    /// Takes a machine that an earlier run kept.
    pub fn take_over(&mut self, machine: Box<dyn Machine>) {
        self.machine = Some(machine);
        self.step(Trigger::CreateOk, "kept by an earlier run");
    }

    /// Starts the machine and connects to the guest. When it runs already, nothing happens; any failure leaves
    /// `Invalid`.
    pub async fn start(&mut self, cancel: &CancellationToken) -> Result<()> {
        match self.state {
            MachineState::Running => return Ok(()),
            MachineState::Created => {}
            _ => return Err(self.wrong_state("start")),
        }
        match self.try_start(cancel).await {
            Ok(()) => {
                self.step(Trigger::StartOk, "the guest answers");
                Ok(())
            }
            Err(fault) => {
                self.step(Trigger::StartFailed, &fault.to_string());
                Err(fault)
            }
        }
    }

    async fn try_start(&mut self, cancel: &CancellationToken) -> Result<()> {
        let Some(machine) = &mut self.machine else {
            return Err(Fault::bug("cannot start the machine").because("there is none"));
        };
        self.connection.prepare(machine.as_ref()).await?;
        self.powered = true;
        failpoint::pass("start-begin");
        let started = tokio::select! {
            started = machine.start(CallContext::new(START, cancel)) => started,
            () = cancel.cancelled() => Err(Fault::cancelled("cannot start the machine").because("it was cancelled")),
        };
        if let Err(fault) = started {
            self.connection.not_started();
            return Err(fault);
        }
        failpoint::pass("start-done");
        self.started = Some(clock::utc());
        self.connection.connect(machine.as_ref(), cancel).await
    }

    /// Waits for a guest that begins again by itself, and connects to it anew. A failure changes no state: the machine still runs.
    pub async fn reconnect(&mut self, cancel: &CancellationToken) -> Result<()> {
        self.running("connect again to")?;
        match &self.machine {
            Some(machine) => self.connection.reconnect(machine.as_ref(), cancel).await,
            None => Err(self.wrong_state("connect again to")),
        }
    }

    /// Ends the session and writes all of the machine into a folder, which will stand at `place`. The machine is of no use then, but to be
    /// taken down; after an error it goes on, and `resume` connects to it. Returns whether the disk that
    /// it began with is needed.
    pub async fn freeze(&mut self, to: &Path, place: &Path) -> Result<bool> {
        let freezer = self.running("freeze")?.freezer();
        let freezer =
            freezer.ok_or_else(|| Fault::infra("cannot freeze the machine").because("it was not made for that"))?;
        self.connection.hang_up().await;
        freezer.freeze(to, place).await
    }

    /// Writes all of the machine into a folder, which will stand at `place`; the guest goes on, and so does the session.
    pub async fn keep_state(&self, to: &Path, place: &Path) -> Result<bool> {
        let power = self.running("keep the state of")?.checkpoint();
        let power = power.ok_or_else(|| {
            let cannot = Fault::infra("cannot keep the state of the machine");
            cannot.because("its backend cannot, or it has parts that are not its own: docs/snapshots.md").permanent()
        })?;
        power.keep_state(to, place).await
    }

    /// Connects again to a guest that could not be frozen. A failure changes no state: the machine still runs.
    pub async fn resume(&mut self, cancel: &CancellationToken) -> Result<()> {
        self.running("connect again to")?;
        match &self.machine {
            Some(machine) => self.connection.resume(machine.as_ref(), cancel).await,
            None => Err(self.wrong_state("connect again to")),
        }
    }

    /// Takes the machine down and releases everything: terminate, close the connection, close. The first two may fail
    /// without stopping the rest; if the last fails the machine is `Invalid`, and this can be tried again. A running
    /// guest that had ended by itself is taken down all the same (an adopted machine is put back only so), and its own
    /// end is the reason.
    pub async fn terminate(&mut self, why: &str) -> Result<()> {
        if matches!(self.state, MachineState::NotCreated | MachineState::Terminated) {
            return Ok(());
        }
        if self.exit.is_none()
            && let Some(exit) = self.machine.as_ref().and_then(|machine| machine.exit().borrow().clone())
        {
            self.exit = Some(exit);
            self.stopped.get_or_insert_with(clock::utc);
        }
        failpoint::pass("stop-begin");
        if let Some(machine) = self.machine.as_mut().filter(|_| self.powered)
            && let Err(fault) = machine.stop().await
        {
            self.swallowed.push(fault);
        }
        let (done, why) = match &self.exit {
            Some(exit) if self.state == MachineState::Running => (Trigger::Exited, exit.to_string()),
            _ => (Trigger::TerminateOk, why.to_owned()),
        };
        self.release(done, &why).await
    }

    async fn release(&mut self, done: Trigger, why: &str) -> Result<()> {
        if let Err(fault) = self.connection.close().await {
            self.swallowed.push(fault);
        }
        if let Some(machine) = &mut self.machine {
            failpoint::pass("release-begin");
            let released = machine.release().await;
            failpoint::pass("release-done");
            match released.and_then(|proofs| proofs.into_iter().map(Proof::into_result).collect::<Result<Vec<_>>>()) {
                Ok(proofs) => self.proofs.extend(proofs),
                Err(fault) => {
                    self.step(Trigger::TerminateFailed, &fault.to_string());
                    return Err(fault);
                }
            }
        }
        if let Some(machine) = self.machine.take() {
            self.exit = self.exit.take().or_else(|| machine.exit().borrow().clone());
        }
        self.stopped.get_or_insert_with(clock::utc);
        self.step(done, why);
        Ok(())
    }

    /// Gives up control of the machine without touching it: it stays as it is, on a person's wish.
    pub fn detach(&mut self) -> Option<Box<dyn Machine>> {
        self.machine.take()
    }

    /// Runs a command in the guest and returns how it ended.
    pub async fn run(
        &self,
        command: &RemoteCommand,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<CommandExit> {
        if command.terminal && command.separate_stderr {
            return Err(Fault::user("cannot run the command").because("a terminal has no separate standard error"));
        }
        self.running("run a command in")?;
        self.connection.run(command, sink, cancel).await
    }

    /// Returns the host key that the guest showed.
    pub fn host_key(&self) -> Option<String> {
        self.connection.host_key()
    }

    /// Returns the open session of a running machine.
    pub fn session(&self) -> Option<&dyn Session> {
        self.connection.session().filter(|_| self.state == MachineState::Running)
    }

    /// Returns the open session of a running machine for who goes on with it beside others.
    pub fn shared_session(&self) -> Option<Arc<dyn Session>> {
        self.connection.shared_session().filter(|_| self.state == MachineState::Running)
    }

    /// Asks the guest's kernel for its stacks; `false` where it cannot be asked.
    pub async fn dump_stacks(&self) -> Result<bool> {
        match self.running("dump the stacks of")?.stacks() {
            Some(power) => power.dump().await,
            None => Ok(false),
        }
    }

    /// Returns what the hypervisor says about the machine, in any state that has one.
    pub async fn describe(&self) -> Result<String> {
        match &self.machine {
            Some(machine) => machine.describe().await,
            None => Err(self.wrong_state("describe")),
        }
    }

    /// Returns what the machine uses now; `None` = not known.
    pub fn stats(&self) -> Result<Option<Stats>> {
        Ok(self.running("measure")?.stats())
    }

    /// Returns when the machine was started; `None` before, and where the start failed.
    pub fn start_time(&self) -> Option<DateTime<Utc>> {
        self.started.filter(|_| matches!(self.state, MachineState::Running | MachineState::Terminated))
    }

    /// Returns how the machine ended; an error before `Terminated`.
    pub fn exit_status(&self) -> Result<ExitStatus> {
        match (self.state, self.stopped) {
            (MachineState::Terminated, Some(stopped)) => Ok(ExitStatus { stopped, exit: self.exit.clone() }),
            _ => Err(self.wrong_state("report the exit of")),
        }
    }

    /// Waits for the end of the machine and for the rest of its console; cancelling ends either wait.
    pub async fn wait(&mut self, cancel: &CancellationToken) -> Result<()> {
        if self.state == MachineState::NotCreated {
            return Err(self.wrong_state("wait for"));
        }
        let cancelled = || Fault::cancelled("cannot wait for the machine").because("it was cancelled");
        if let Some(machine) = self.machine.as_ref().filter(|_| self.state != MachineState::Terminated) {
            let mut exit = machine.exit();
            tokio::select! {
                // A sender that is gone means that the machine is gone.
                _ = exit.wait_for(Option::is_some) => {}
                () = cancel.cancelled() => return Err(cancelled()),
            }
        }
        tokio::select! {
            drained = self.connection.drain() => drained,
            () = cancel.cancelled() => Err(cancelled()),
        }
    }
}

#[cfg(test)]
mod tests;
