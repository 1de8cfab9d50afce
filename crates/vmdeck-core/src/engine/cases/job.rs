//! One job from its first machine to the last proof, as a straight script with points at which it can be cancelled.
//!
//! A machine that is lost on the way is replaced for the cases that are left; the case that lost it is `infra`.

use super::{case::CaseRun, requirements, script_failure::ScriptFailure, suite::SuiteRun};
use crate::{
    engine::{
        context::RunContext,
        controls::GuestEnd,
        machine::{self, LeasedMachine, Permits, PhaseEvents},
    },
    transport::source,
};
use sha2::{Digest, Sha256};
use std::{collections::VecDeque, path::PathBuf, sync::Arc};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{EventKind, Phase},
    guest::{Fresh, Guest, Source},
    outcome::{CancelReason, Verdict},
    plan::Job,
    suite::Suite,
};

/// Runs everything of one job; the permits are for as many machines as it needs.
pub(in crate::engine) async fn run(context: Arc<RunContext>, job: Job, permits: Permits) {
    let guest = Arc::new(job.guest().clone());
    let mut run = JobRun {
        context: &context,
        guest: &guest,
        suites: &job.suites,
        queue: VecDeque::new(),
        has_failed: false,
        permits,
    };
    run.fill_queue();
    run.run().await;
}

/// A suite in one of the rounds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SuiteRound {
    suite: usize,
    round: u32,
}

/// A case that waits for its turn.
#[derive(Clone, Copy)]
struct QueuedCase {
    of: SuiteRound,
    case: usize,
}

/// Why no more cases are run in a machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Nothing more is to be run in it: the queue is empty, a fresh machine is due, or somebody stopped the guest.
    Done,
    /// The machine was lost.
    Lost,
}

struct JobRun<'a> {
    context: &'a RunContext,
    guest: &'a Arc<Guest>,
    suites: &'a [Suite],
    queue: VecDeque<QueuedCase>,
    /// Whether some case failed or was infra.
    has_failed: bool,
    permits: Permits,
}

impl<'a> JobRun<'a> {
    /// Puts the cases in order; those that the config skips are reported at once and need no machine.
    fn fill_queue(&mut self) {
        for round in 1..=self.context.plan.options.repeat {
            for (suite, of_suite) in self.suites.iter().enumerate() {
                for (case, of_case) in of_suite.cases.iter().enumerate() {
                    let queued = QueuedCase { of: SuiteRound { suite, round }, case };
                    match &of_case.skip {
                        Some(why) => self.case_run(queued).report_unrun(Verdict::Skipped, why),
                        None => self.queue.push_back(queued),
                    }
                }
            }
        }
    }

    fn case_run(&self, queued: QueuedCase) -> CaseRun<'a> {
        let suite = &self.suites[queued.of.suite];
        let (case, round) = (&suite.cases[queued.case], queued.of.round);
        CaseRun { context: self.context, guest: self.guest, suite, case, round }
    }

    fn suite_run(&self, round: SuiteRound) -> SuiteRun<'a> {
        SuiteRun { context: self.context, guest: self.guest, suite: &self.suites[round.suite] }
    }

    /// Gives this verdict to every case that is left.
    fn give_up(&mut self, verdict: Verdict, message: &str) {
        while let Some(queued) = self.queue.pop_front() {
            self.case_run(queued).report_unrun(verdict, message);
        }
    }

    async fn run(&mut self) {
        let mut held = !self.context.plan.options.hold;
        while !self.queue.is_empty() || !held {
            held = true;
            self.reacquire_permits().await;
            if self.context.is_stopped(self.guest) {
                return self.give_up(Verdict::Cancelled, self.context.stop_reason());
            }
            self.context.set_lock_phase(&format!("booting {}", self.guest.id));
            let machine = match self.lease().await {
                Ok(machine) => machine,
                Err(fault) => return self.no_machine(&fault),
            };
            self.use_machine(machine).await;
        }
    }

    /// Waits for the permits if they were given back, or for the guest's end.
    async fn reacquire_permits(&mut self) {
        match self.context.controls.of(&self.guest.id) {
            Some(control) => tokio::select! {
                _ = self.permits.reacquire() => {}
                () = control.stop.cancelled() => {}
            },
            None => drop(self.permits.reacquire().await),
        }
    }

    fn no_machine(&mut self, fault: &Fault) {
        if fault.blame() == Blame::Cancelled {
            return self.give_up(Verdict::Cancelled, self.context.stop_reason());
        }
        let text = self.context.redactor.text(&fault.to_string());
        self.context.events.warn(Some(&self.guest.id), text.clone(), fault.remedy().map(str::to_owned));
        self.has_failed = true;
        if self.queue.is_empty() {
            // Without a case there is no verdict that would say it.
            self.context.events.infra();
        }
        // The warning above has the console's lines; once is enough.
        let short = text.lines().next().unwrap_or_default().trim_end_matches(": the console's last lines:");
        self.give_up(Verdict::Infra, short);
        self.fail_fast();
    }

    /// Launches a machine; a stop ends the boot.
    async fn launch(&mut self) -> Result<LeasedMachine> {
        let launch = machine::launch(self.context, self.guest, &mut self.permits);
        let Some(control) = self.context.controls.of(&self.guest.id) else { return launch.await };
        tokio::pin!(launch);
        tokio::select! {
            machine = &mut launch => return machine,
            () = control.stop.cancelled() => control.cancel.cancel(),
        }
        launch.await
    }

    /// Returns a machine with the code in it.
    async fn lease(&mut self) -> Result<LeasedMachine> {
        let machine = self.launch().await?;
        match self.send_source(&machine).await {
            Ok(()) => Ok(machine),
            Err(fault) => {
                machine::take_down(self.context, self.guest, machine).await;
                Err(fault)
            }
        }
    }

    async fn send_source(&self, machine: &LeasedMachine) -> Result<()> {
        let Some(source) = &self.guest.source else { return Ok(()) };
        let session = machine.controller.session();
        let session = session.ok_or_else(|| Fault::infra("cannot send the code").because("there is no session"))?;
        let kept = self.kept_source(machine, source);
        let sending = source::send(session, source, kept.as_deref(), &self.context.cancel);
        let phase = PhaseEvents::begin(&self.context.events, &self.guest.id, Phase::Source, None);
        let sent = phase.around(sending).await?;
        for note in sent.notes {
            self.context.events.warn(Some(&self.guest.id), note, None);
        }
        if let Some((changed, all)) = sent.changed {
            let text = format!("guest `{}`: {changed} of {all} files had changed, and were sent", self.guest.id);
            self.context.events.send(EventKind::Progress { guest: Some(self.guest.id.clone()), text });
        }
        Ok(())
    }

    /// Returns where what a machine has of the code is kept in mind; only one of others lives on from run to run.
    fn kept_source(&self, machine: &LeasedMachine, source: &Source) -> Option<PathBuf> {
        let machine = machine.controller.machine().filter(|machine| machine.is_adopted())?;
        let from = source.path.display().to_string();
        let what = [&self.guest.backend, machine.provider_name(), &source.to, &from].join("\0");
        let hash: String = Sha256::digest(what).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Some(self.context.backend.state.join("sources").join(format!("{hash}.json")))
    }

    /// Runs cases until there are none left, the machine is lost, or a fresh one is due; then ends the lease.
    async fn use_machine(&mut self, mut machine: LeasedMachine) {
        let (context, guest) = (self.context, self.guest);
        let had_failed = self.has_failed;
        context.set_lock_phase(&format!("testing in {}", guest.id));
        let phase = PhaseEvents::begin(&context.events, &guest.id, Phase::Tests, None);
        let lost = self.run_queue(&mut machine).await == Stop::Lost;
        phase.end(!lost);
        if !lost && context.plan.options.hold && self.queue.is_empty() {
            machine::hold(context, guest, &mut machine).await;
        }
        let failed = self.has_failed != had_failed;
        if failed && !lost {
            machine::pause(context, guest, &mut self.permits).await;
        }
        let end = if failed { GuestEnd::Failed } else { GuestEnd::Well };
        let keep = context.controls.keeps(&guest.id, context.plan.options.keep, end);
        if keep && !lost && !machine.is_lost() {
            return machine::keep(context, guest, machine);
        }
        machine::take_down(context, guest, machine).await;
    }

    /// Runs cases in this machine as long as they may be.
    async fn run_queue(&mut self, machine: &mut LeasedMachine) -> Stop {
        let mut current: Option<SuiteRound> = None;
        let mut ran = 0;
        while let Some(queued) = self.queue.front().copied() {
            if self.context.cancel.is_cancelled() {
                return Stop::Done;
            }
            if self.context.is_stopped(self.guest) {
                break;
            }
            if ran > 0 && machine.is_lost() {
                // It went with the case that is judged already: the next one has no part in that.
                let why = machine.crash().map_or_else(|| "it has ended".to_owned(), |crash| crash.to_string());
                let text = format!("guest `{}` is replaced before the next case: {why}", self.guest.id);
                self.context.events.warn(Some(&self.guest.id), self.context.redactor.text(&text), None);
                return Stop::Lost;
            }
            if current != Some(queued.of) {
                if current.is_some() && self.guest.fresh == Fresh::Suite {
                    break;
                }
                if let Some(before) = current {
                    self.finish_suite(before, machine).await;
                }
                current = Some(queued.of);
                if let Err(failure) = self.prepare_suite(queued.of, machine).await {
                    self.fail_suite(queued.of, &failure);
                    if machine.is_lost() {
                        return Stop::Lost;
                    }
                    if self.guest.fresh != Fresh::Run {
                        // What the failed preparation left behind is not for the next one.
                        return Stop::Done;
                    }
                    current = None;
                    continue;
                }
            }
            self.queue.pop_front();
            ran += 1;
            let outcome = self.case_run(queued).run(machine).await;
            if outcome.verdict.is_failure() {
                self.has_failed = true;
                self.fail_fast();
            }
            if outcome.machine_lost {
                return Stop::Lost;
            }
            if self.guest.fresh == Fresh::Case {
                break;
            }
        }
        if let Some(last) = current.filter(|_| !self.context.cancel.is_cancelled()) {
            self.finish_suite(last, machine).await;
        }
        Stop::Done
    }

    /// Brings in what a suite requires and runs its setup.
    async fn prepare_suite(&self, round: SuiteRound, machine: &LeasedMachine) -> Result<(), ScriptFailure> {
        let run = self.suite_run(round);
        requirements::meet(&run, machine).await?;
        run.set_up(machine).await
    }

    /// Ends a suite in this machine; artifacts that had to come and did not make it fail.
    async fn finish_suite(&mut self, round: SuiteRound, machine: &LeasedMachine) {
        let run = self.suite_run(round);
        let missing = run.finish(machine).await;
        if let Some(why) = missing.filter(|_| run.suite.artifacts_required) {
            self.has_failed = true;
            run.report_missing_artifacts(&why, round.round);
            self.fail_fast();
        }
    }

    fn fail_fast(&self) {
        if self.context.plan.options.fail_fast {
            // At once, so that no further case begins before the dispatcher has heard of it.
            self.context.cancel_run(CancelReason::FailFast);
        }
    }

    /// Notes that the suite's own preparation failed: nothing can be said about its cases.
    fn fail_suite(&mut self, round: SuiteRound, failure: &ScriptFailure) {
        self.has_failed = true;
        let (failed, rest): (Vec<QueuedCase>, Vec<QueuedCase>) =
            std::mem::take(&mut self.queue).into_iter().partition(|queued| queued.of == round);
        self.queue = rest.into();
        let verdict = if self.context.cancel.is_cancelled() { Verdict::Cancelled } else { failure.verdict };
        for queued in failed {
            self.case_run(queued).report_setup_failed(verdict, failure);
        }
        self.fail_fast();
    }
}
