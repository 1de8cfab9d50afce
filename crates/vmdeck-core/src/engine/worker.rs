//! One guest from its first machine to the last proof, as a straight script with points at which it can be cancelled.
//!
//! A machine that is lost on the way is replaced for the cases that are left; the case that lost it is `infra`.

use super::{
    cases::{self, Item},
    conductor::Shared,
    launch::{self, Machine},
    link,
    logs::{Logs, Source},
};
use crate::{
    backend::GuestExec,
    command::{Exec, Exit},
    host::clock,
    transport::{Session, artifacts, source},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Phase,
    guest::{Fresh, Guest},
    outcome::{CancelReason, Verdict},
    plan::{Job, Keep},
    suite::{Case, Suite},
};

/// How long a setup, a teardown or a fetch may take.
const CHORE: Duration = Duration::from_mins(30);

/// Runs everything of one guest; `place` is its place among those that may be up at a time.
pub(super) async fn run(shared: Arc<Shared>, job: Job, place: OwnedSemaphorePermit) {
    let guest = Arc::new(job.guest);
    let queue = VecDeque::new();
    let mut worker =
        Worker { shared: &shared, guest: &guest, suites: &job.suites, queue, bad: false, place: Some(place) };
    worker.fill_queue();
    worker.work().await;
}

struct Worker<'a> {
    shared: &'a Shared,
    guest: &'a Arc<Guest>,
    suites: &'a [Suite],
    queue: VecDeque<Item>,
    /// Whether some case failed or was infra.
    bad: bool,
    /// Given back while a person looks at a machine that failed: the other guests go on.
    place: Option<OwnedSemaphorePermit>,
}

impl Worker<'_> {
    /// Puts the cases in order; those that are skipped by the config are told at once and need no machine.
    fn fill_queue(&mut self) {
        for round in 1..=self.shared.plan.options.repeat {
            for (suite, of_suite) in self.suites.iter().enumerate() {
                for (case, of_case) in of_suite.cases.iter().enumerate() {
                    match &of_case.skip {
                        Some(why) => {
                            cases::tell_unrun(self.shared, self.guest, of_suite, of_case, round, Verdict::Skipped, why);
                        }
                        None => self.queue.push_back(Item { suite, case, round }),
                    }
                }
            }
        }
    }

    fn at(&self, item: &Item) -> (&Suite, &Case) {
        let suite = &self.suites[item.suite];
        (suite, &suite.cases[item.case])
    }

    /// Everything that is left gets this verdict.
    fn give_up(&mut self, verdict: Verdict, message: &str) {
        while let Some(item) = self.queue.pop_front() {
            let (suite, case) = self.at(&item);
            cases::tell_unrun(self.shared, self.guest, suite, case, item.round, verdict, message);
        }
    }

    async fn work(&mut self) {
        let mut held = !self.shared.plan.options.hold;
        while !self.queue.is_empty() || !held {
            held = true;
            if self.place.is_none() {
                self.place = self.take_place().await;
            }
            if self.is_stopped() {
                return self.give_up(Verdict::Cancelled, self.why_stopped());
            }
            self.shared.note(&format!("booting {}", self.guest.id));
            let machine = match self.boot().await {
                Ok(machine) => machine,
                Err(fault) => return self.no_machine(&fault),
            };
            self.use_machine(machine).await;
        }
    }

    /// Waits for a place among those that may be up, or for the guest's end.
    async fn take_place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.shared.places).acquire_owned();
        match self.shared.steering.of(&self.guest.id) {
            Some(wheel) => tokio::select! {
                place = place => place.ok(),
                () = wheel.stop.cancelled() => None,
            },
            None => place.await.ok(),
        }
    }

    fn no_machine(&mut self, fault: &Fault) {
        if fault.blame() == vmdeck_model::error::Blame::Cancelled {
            return self.give_up(Verdict::Cancelled, self.why_stopped());
        }
        let text = self.shared.redactor.text(&fault.to_string());
        self.shared.emit.warn(Some(&self.guest.id), text.clone(), fault.remedy().map(str::to_owned));
        self.bad = true;
        if self.queue.is_empty() {
            // Without a case there is no verdict that would tell.
            self.shared.emit.infra();
        }
        // The warning above has the console's lines; once is enough.
        let short = text.lines().next().unwrap_or_default().trim_end_matches(": the console's last lines:");
        self.give_up(Verdict::Infra, short);
        self.fail_fast();
    }

    /// Whether nothing more is to begin here.
    fn is_stopped(&self) -> bool {
        let stopped = self.shared.steering.of(&self.guest.id).is_some_and(|wheel| wheel.stop.is_cancelled());
        stopped || self.shared.cancel.is_cancelled()
    }

    fn why_stopped(&self) -> &'static str {
        self.shared.why_stopped()
    }

    /// A machine; a stop ends the boot.
    async fn launch(&mut self) -> Result<Machine> {
        let launch = launch::launch(self.shared, self.guest, &mut self.place);
        let Some(wheel) = self.shared.steering.of(&self.guest.id) else { return launch.await };
        tokio::pin!(launch);
        tokio::select! {
            machine = &mut launch => return machine,
            () = wheel.stop.cancelled() => wheel.cancel.cancel(),
        }
        launch.await
    }

    /// A machine with the code in it.
    async fn boot(&mut self) -> Result<Machine> {
        let mut machine = self.launch().await?;
        if let Some(from) = &self.guest.source {
            let session = Through(&machine);
            let sent = launch::phase(
                self.shared,
                self.guest,
                Phase::Source,
                source::send(&session, from, &self.shared.cancel),
            )
            .await;
            if let Err(fault) = sent {
                launch::take_down(self.shared, self.guest, &mut machine.controller, &machine.name).await;
                return Err(fault);
            }
        }
        Ok(machine)
    }

    /// Runs cases until there are none left, the machine is lost, or a fresh one is due; then takes it down.
    async fn use_machine(&mut self, mut machine: Machine) {
        let bad_before = self.bad;
        let shared = self.shared;
        shared.note(&format!("testing in {}", self.guest.id));
        let start = clock::now();
        let id = self.guest.id.clone();
        shared.emit.fact(vmdeck_model::event::EventKind::PhaseStarted {
            guest: id.clone(),
            phase: Phase::Tests,
            usual_ms: None,
            rest_ms: None,
            quiet_ms: None,
        });
        let lost = self.run_queue(&mut machine).await;
        let took_ms = clock::ms_since(start);
        shared.emit.fact(vmdeck_model::event::EventKind::PhaseEnded {
            guest: id,
            phase: Phase::Tests,
            ok: !lost,
            took_ms,
        });
        if !lost && shared.plan.options.hold && self.queue.is_empty() {
            launch::hold(shared, self.guest, &machine).await;
        }
        let bad = self.bad != bad_before;
        if bad && !lost {
            launch::pause(shared, self.guest, &mut self.place).await;
        }
        let keep = shared.steering.keeps(&self.guest.id, shared.plan.options.keep == Keep::Always, bad);
        if keep && !lost && !machine.is_lost() {
            return launch::keep(shared, self.guest, machine);
        }
        launch::take_down(shared, self.guest, &mut machine.controller, &machine.name).await;
    }

    /// Returns whether the machine was lost.
    async fn run_queue(&mut self, machine: &mut Machine) -> bool {
        let mut current: Option<(usize, u32)> = None;
        while let Some(item) = self.queue.front().cloned() {
            if self.shared.cancel.is_cancelled() {
                return false;
            }
            if self.is_stopped() {
                break;
            }
            let place = (item.suite, item.round);
            if current != Some(place) {
                if current.is_some() && self.guest.fresh == Fresh::Suite {
                    break;
                }
                if let Some((suite, _)) = current {
                    self.finish_suite(machine, &self.suites[suite]).await;
                }
                current = Some(place);
                if let Err(why) = self.set_up(machine, &self.suites[item.suite]).await {
                    self.fail_suite(place, &why);
                    if machine.is_lost() {
                        return true;
                    }
                    if self.guest.fresh != Fresh::Run {
                        // What the failed preparation left behind is not for the next one.
                        return false;
                    }
                    current = None;
                    continue;
                }
            }
            self.queue.pop_front();
            let (suite, case) = (&self.suites[item.suite], &self.suites[item.suite].cases[item.case]);
            let outcome = cases::run(self.shared, self.guest, machine, suite, case, item.round).await;
            if matches!(outcome.verdict, Verdict::Failed | Verdict::Infra) {
                self.bad = true;
                self.fail_fast();
            }
            if outcome.machine_lost {
                return true;
            }
            if self.guest.fresh == Fresh::Case {
                break;
            }
        }
        if let Some((suite, _)) = current.filter(|_| !self.shared.cancel.is_cancelled()) {
            self.finish_suite(machine, &self.suites[suite]).await;
        }
        false
    }

    fn fail_fast(&self) {
        if self.shared.plan.options.fail_fast {
            // At once, so that no further case begins before the dispatcher has heard of it.
            self.shared.cancel_run();
            self.shared.ask_cancel(CancelReason::FailFast);
        }
    }

    /// The suite's own preparation failed: nothing can be said about its cases.
    fn fail_suite(&mut self, (suite, round): (usize, u32), why: &str) {
        self.bad = true;
        let (gone, rest): (Vec<Item>, Vec<Item>) =
            std::mem::take(&mut self.queue).into_iter().partition(|i| i.suite == suite && i.round == round);
        self.queue = rest.into();
        let verdict = if self.shared.cancel.is_cancelled() { Verdict::Cancelled } else { Verdict::Infra };
        for item in gone {
            let (suite, case) = self.at(&item);
            cases::tell_unrun(self.shared, self.guest, suite, case, item.round, verdict, why);
        }
        self.fail_fast();
    }

    async fn set_up(&self, machine: &Machine, suite: &Suite) -> Result<(), String> {
        match &suite.setup {
            Some(script) => self.chore(machine, suite, "setup", script).await,
            None => Ok(()),
        }
    }

    async fn finish_suite(&self, machine: &Machine, suite: &Suite) {
        let id = &self.guest.id;
        if let Some(script) = &suite.teardown
            && let Err(why) = self.chore(machine, suite, "teardown", script).await
        {
            self.shared.emit.warn(Some(id), format!("suite `{}`: {why}", suite.id), None);
        }
        if suite.artifacts.is_empty() {
            return;
        }
        let base_dir = self.shared.plan.dir.join("artifacts").join(id.as_str());
        // Another round, or another machine, gets a folder of its own.
        let names = (2..).map(|n| format!("{}-{n}", suite.id));
        let mut names = std::iter::once(suite.id.to_string()).chain(names).map(|name| base_dir.join(name));
        let to = names.find(|path| !path.exists()).unwrap_or(base_dir);
        let base = cases::base(self.guest, suite);
        let session = Through(machine);
        let fetched = artifacts::fetch(&session, &suite.artifacts, &base, &to, &self.shared.cancel);
        match clock::within(CHORE, fetched).await {
            Some(Ok((_, Some(why)))) => {
                self.shared.emit.warn(Some(id), format!("suite `{}`: not every artifact came: {why}", suite.id), None);
            }
            Some(Ok((0, None))) => {
                self.shared.emit.warn(Some(id), format!("suite `{}`: no file matches its artifacts", suite.id), None);
            }
            Some(Ok(_)) => {}
            Some(Err(fault)) => self.shared.emit.warn(Some(id), format!("suite `{}`: {fault}", suite.id), None),
            None => {
                self.shared.emit.warn(
                    Some(id),
                    format!("suite `{}`: fetching artifacts took too long", suite.id),
                    None,
                );
            }
        }
    }

    /// A setup or teardown.
    async fn chore(&self, machine: &Machine, suite: &Suite, what: &str, script: &str) -> Result<(), String> {
        let exec = Exec { script: script.to_owned(), ..cases::base(self.guest, suite) };
        let source = Source { guest: self.guest.id.clone(), suite: suite.id.clone(), case: None };
        let dir = self.shared.guest_dir(self.guest).join(suite.id.as_str()).join(format!(".{what}"));
        let mut logs = Logs::open(&dir, source, self.shared.emit.clone(), &self.shared.redactor, None);
        let token = self.shared.cancel.child_token();
        let (mut ended, mut error) = (machine.ended.clone(), machine.console_error.clone());
        let ran = tokio::select! {
            biased;
            ran = clock::within(CHORE, machine.controller.exec(&exec, &mut logs, &token)) => ran,
            Some(found) = link::told(&mut error) => Some(Err(link::console_fault(&found))),
            Some(how) = link::told(&mut ended) => Some(Err(Fault::infra("cannot finish the command").because(how))),
        };
        if matches!(&ran, Some(Err(fault)) if fault.blame() == vmdeck_model::error::Blame::Infra) {
            machine.lost.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        let (stdout, stderr, _) = logs.finish();
        let last = stderr.lines().last().or(stdout.lines().last()).unwrap_or_default().to_owned();
        match ran {
            Some(Ok(Exit::Code(0))) => Ok(()),
            Some(Ok(exit)) if last.is_empty() => Err(format!("{what} failed: {exit}")),
            Some(Ok(exit)) => Err(format!("{what} failed: {exit}: {last}")),
            Some(Err(fault)) => Err(format!("{what} failed: {}", self.shared.redactor.text(&fault.to_string()))),
            None => Err(format!("{what} took longer than 30 min")),
        }
    }
}

/// A machine's controller as a session, so that code and artifacts take the guarded way too.
struct Through<'a>(&'a Machine);

impl Session for Through<'_> {
    fn kind(&self) -> &'static str {
        "controller"
    }

    fn exec<'a>(
        &'a self,
        exec: &'a Exec,
        sink: &'a mut dyn crate::command::Sink,
        cancel: &'a CancellationToken,
    ) -> crate::backend::Fut<'a, Exit> {
        Box::pin(self.0.controller.exec(exec, sink, cancel))
    }

    fn puller(&self) -> Option<&dyn GuestExec> {
        self.0.controller.session().and_then(Session::puller)
    }

    fn close(&self) -> crate::backend::Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
