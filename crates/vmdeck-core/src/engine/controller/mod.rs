//! The VM controller: one machine, five states, every guard in one place.
//!
//! The table of transitions is `model::lifecycle`; what runs inside the guest is behind [`Link`]. Decisions that differ from
//! the controller that this one replaces: a guest that ends by itself is released before it counts as `Terminated`, and
//! its end in `Invalid` changes nothing there, so a release that failed is always tried again.

use crate::{
    backend::{Ended, Fut, Identity, Stats, Update, Vm},
    command::{Exec, Exit, Sink},
    host::clock,
    transport::Session,
};
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    lifecycle::{State, Trigger},
};

/// The way into the guest, as the controller needs it.
pub trait Link: Send + Sync {
    /// Gets ready to listen before the machine runs, so that its first words are not lost.
    fn prepare<'a>(&'a mut self, vm: &'a dyn Vm) -> Fut<'a, ()>;
    /// Waits for the guest and connects to it.
    fn connect<'a>(&'a mut self, vm: &'a dyn Vm, cancel: &'a CancellationToken) -> Fut<'a, ()>;
    /// Runs a command in the guest.
    fn exec<'a>(&'a self, exec: &'a Exec, sink: &'a mut dyn Sink, cancel: &'a CancellationToken) -> Fut<'a, Exit>;
    /// The machine did not start: there is nothing to listen to.
    fn not_started(&mut self) {}
    /// The open session, for a person.
    fn session(&self) -> Option<&dyn Session> {
        None
    }
    /// The host key that the guest showed, if the way in has such a thing.
    fn host_key(&self) -> Option<String> {
        None
    }
    /// Closes the connection.
    fn close(&mut self) -> Fut<'_, ()>;
    /// Waits until everything that the console said has been taken in.
    fn drain(&mut self) -> Fut<'_, ()>;
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// When.
    pub stopped: DateTime<Utc>,
    /// How, if it ended by itself.
    pub ended: Option<Ended>,
}

/// Told of every change of state, with the reason.
pub type OnChange = Box<dyn Fn(State, State, &str) + Send + Sync>;

/// One machine under control.
pub struct Controller {
    state: State,
    vm: Option<Box<dyn Vm>>,
    link: Box<dyn Link>,
    on_change: OnChange,
    started: Option<DateTime<Utc>>,
    stopped: Option<DateTime<Utc>>,
    ended: Option<Ended>,
    /// Whether `start` ever reached the machine: one that never ran is not terminated, only released.
    powered: bool,
    proofs: Vec<String>,
    swallowed: Vec<Fault>,
}

impl Controller {
    /// Controls nothing yet.
    pub fn new(link: Box<dyn Link>, on_change: OnChange) -> Self {
        Self {
            state: State::NotCreated,
            vm: None,
            link,
            on_change,
            started: None,
            stopped: None,
            ended: None,
            powered: false,
            proofs: Vec::new(),
            swallowed: Vec::new(),
        }
    }

    /// Where the machine stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The machine, while it has not been released.
    pub fn vm(&self) -> Option<&dyn Vm> {
        self.vm.as_deref()
    }

    /// What is known about the machine for sure.
    pub fn identity(&self) -> Option<Identity> {
        self.vm.as_ref().map(|vm| vm.identity())
    }

    /// How the absence of everything was proven.
    pub fn proofs(&self) -> &[String] {
        &self.proofs
    }

    /// Errors on the way down that did not stop it.
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

    fn running(&self, verb: &str) -> Result<&dyn Vm> {
        match (&self.vm, self.state) {
            (Some(vm), State::Running) => Ok(vm.as_ref()),
            _ => Err(self.wrong_state(verb)),
        }
    }

    /// Makes the machine; a failure leaves `NotCreated`, so it can be tried again.
    pub async fn create(&mut self, make: impl Future<Output = Result<Box<dyn Vm>>>) -> Result<()> {
        if self.state != State::NotCreated {
            return Err(self.wrong_state("create"));
        }
        self.vm = Some(make.await?);
        self.step(Trigger::CreateOk, "made by the backend");
        Ok(())
    }

    /// Starts it and connects to the guest. When it runs already, nothing happens; any failure leaves `Invalid`.
    pub async fn start(&mut self, cancel: &CancellationToken) -> Result<()> {
        match self.state {
            State::Running => return Ok(()),
            State::Created => {}
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
        let Some(vm) = &mut self.vm else {
            return Err(Fault::bug("cannot start the machine").because("there is none"));
        };
        self.link.prepare(vm.as_ref()).await?;
        self.powered = true;
        let started = tokio::select! {
            started = vm.start() => started,
            () = cancel.cancelled() => Err(Fault::cancelled("cannot start the machine").because("it was cancelled")),
        };
        if let Err(fault) = started {
            self.link.not_started();
            return Err(fault);
        }
        self.started = Some(clock::utc());
        self.link.connect(vm.as_ref(), cancel).await
    }

    /// Takes it down and releases everything: terminate, close the connection, close. The first two may fail without
    /// stopping the rest; if the last fails the machine is `Invalid`, and this can be tried again.
    pub async fn terminate(&mut self, why: &str) -> Result<()> {
        if matches!(self.state, State::NotCreated | State::Terminated) {
            return Ok(());
        }
        if let Some(vm) = self.vm.as_mut().filter(|_| self.powered)
            && let Err(fault) = vm.terminate().await
        {
            self.swallowed.push(fault);
        }
        self.release(Trigger::TerminateOk, why).await
    }

    async fn release(&mut self, done: Trigger, why: &str) -> Result<()> {
        if let Err(fault) = self.link.close().await {
            self.swallowed.push(fault);
        }
        if let Some(vm) = &mut self.vm {
            match vm.close().await {
                Ok(proofs) => self.proofs.extend(proofs),
                Err(fault) => {
                    self.step(Trigger::TerminateFailed, &fault.to_string());
                    return Err(fault);
                }
            }
        }
        if let Some(vm) = self.vm.take() {
            self.ended = self.ended.take().or_else(|| vm.ended().borrow().clone());
        }
        self.stopped.get_or_insert_with(clock::utc);
        self.step(done, why);
        Ok(())
    }

    /// The guest ended by itself. From `Running` its resources are released, which leads to `Terminated` or `Invalid`;
    /// in every other state the fact alone is kept.
    pub async fn exited(&mut self, ended: Ended) -> Result<()> {
        let why = ended.to_string();
        self.ended.get_or_insert(ended);
        self.stopped.get_or_insert_with(clock::utc);
        if self.state != State::Running {
            return Ok(());
        }
        self.release(Trigger::Exited, &why).await
    }

    /// Gives the machine up without touching it: it stays as it is, on a person's wish.
    pub fn leave(&mut self) -> Option<Box<dyn Vm>> {
        self.vm.take()
    }

    /// Runs a command in the guest and returns how it ended.
    pub async fn exec(&self, exec: &Exec, sink: &mut dyn Sink, cancel: &CancellationToken) -> Result<Exit> {
        if exec.terminal && exec.separate_stderr {
            return Err(Fault::user("cannot run the command").because("a terminal has no separate standard error"));
        }
        self.running("run a command in")?;
        self.link.exec(exec, sink, cancel).await
    }

    /// The host key that the guest showed.
    pub fn host_key(&self) -> Option<String> {
        self.link.host_key()
    }

    /// The open session of a running machine, for a person who types.
    pub fn session(&self) -> Option<&dyn Session> {
        self.link.session().filter(|_| self.state == State::Running)
    }

    /// Asks the guest's kernel for its stacks; `false` where it cannot be asked.
    pub async fn dump_stacks(&self) -> Result<bool> {
        self.running("dump the stacks of")?.dump_stacks().await
    }

    /// What the hypervisor says, in any state that has a machine.
    pub async fn diagnose(&self) -> Result<String> {
        match &self.vm {
            Some(vm) => vm.diagnose().await,
            None => Err(self.wrong_state("diagnose")),
        }
    }

    /// What it uses now.
    pub fn stats(&self) -> Result<Option<Stats>> {
        Ok(self.running("measure")?.stats())
    }

    /// Changes it while it runs.
    pub async fn update(&mut self, update: &Update) -> Result<()> {
        self.running("change")?;
        if *update == Update::CpuGroup(String::new()) {
            return Err(Fault::user("cannot change the processor group").because("its id is empty"));
        }
        match &mut self.vm {
            Some(vm) => vm.update(update).await,
            None => Err(self.wrong_state("change")),
        }
    }

    /// When it was started; `None` before, and where the start failed.
    pub fn start_time(&self) -> Option<DateTime<Utc>> {
        self.started.filter(|_| matches!(self.state, State::Running | State::Terminated))
    }

    /// How it ended; an error before `Terminated`.
    pub fn exit_status(&self) -> Result<ExitStatus> {
        match (self.state, self.stopped) {
            (State::Terminated, Some(stopped)) => Ok(ExitStatus { stopped, ended: self.ended.clone() }),
            _ => Err(self.wrong_state("tell the exit of")),
        }
    }

    /// Waits for the end of the machine and for the rest of its console; cancelling ends either wait.
    pub async fn wait(&mut self, cancel: &CancellationToken) -> Result<()> {
        if self.state == State::NotCreated {
            return Err(self.wrong_state("wait for"));
        }
        let cancelled = || Fault::cancelled("cannot wait for the machine any longer").because("it was cancelled");
        if let Some(vm) = self.vm.as_ref().filter(|_| self.state != State::Terminated) {
            let mut ended = vm.ended();
            tokio::select! {
                // A sender that is gone means that the machine is gone.
                _ = ended.wait_for(Option::is_some) => {}
                () = cancel.cancelled() => return Err(cancelled()),
            }
        }
        tokio::select! {
            drained = self.link.drain() => drained,
            () = cancel.cancelled() => Err(cancelled()),
        }
    }
}

#[cfg(test)]
mod tests;
