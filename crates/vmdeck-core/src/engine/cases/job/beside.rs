//! The cases of a job that go on beside those behind them, to the end of their suite.

use super::job_run::{JobRun, QueuedCase};
use crate::engine::{
    cases::background::{Background, Stopped},
    machine::LeasedMachine,
};
use futures_util::future::join_all;
use vmdeck_model::{guest::Fresh, outcome::Verdict};

impl JobRun<'_> {
    /// Starts a case that goes on, in each of its machines; those behind it are run once it is ready.
    pub(super) async fn start_background(&mut self, queued: QueuedCase, machines: &[LeasedMachine]) {
        if self.wants_fresh(Fresh::Case) {
            let why = "it cannot go on beside others: each case gets a machine of its own (`fresh = \"case\"`)";
            self.report_unrun(queued, Verdict::Failed, why);
            self.has_failed = true;
            return self.note(queued, Verdict::Failed);
        }
        let case = self.case_of(queued).0.clone();
        let own: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].takes(&case)).collect();
        let start = |at: &usize| {
            let (run, machine) = (self.case_run(queued, &self.members[*at]), &machines[*at]);
            async move { run.start(machine).await }
        };
        let started = join_all(own.iter().map(start)).await;
        for (at, started) in own.into_iter().zip(started) {
            match started {
                Ok((background, Ok(()))) => self.background.push((queued, at, background)),
                Ok((background, Err(why))) => self.end_one((queued, at, background), why).await,
                Err((verdict, why)) => {
                    let why = self.context.redactor.text(&why);
                    self.case_run(queued, &self.members[at]).report_unrun(verdict, &why);
                    self.has_failed = true;
                    self.note(queued, verdict);
                    self.fail_fast();
                }
            }
        }
    }

    /// Ends those that have ended by themselves: too early.
    pub(super) async fn look_after_background(&mut self) {
        while let Some(at) = self.background.iter().position(|(.., background)| background.has_ended()) {
            let ended = self.background.swap_remove(at);
            self.end_one(ended, Stopped::End).await;
        }
    }

    /// Ends all that go on, the last first: their suite is at its end, or somebody stopped it.
    pub(super) async fn end_background(&mut self) {
        while let Some(last) = self.background.pop() {
            let stopped = self.stop_reason().map(Stopped::Cancelled);
            self.end_one(last, stopped.unwrap_or(Stopped::End)).await;
        }
    }

    /// Ends all that go on in machines that are left before the end of the suite. One whose own machine only is not used any more has done
    /// its part until then; for the cases that are left it is not there.
    pub(super) async fn leave_background(&mut self, machines: &[LeasedMachine]) {
        let lost = self.lost(machines);
        while let Some((queued, at, background)) = self.background.pop() {
            let stopped = match self.stop_reason() {
                Some(why) => Stopped::Cancelled(why),
                None if machines[at].is_gone() => Stopped::Lost(lost.clone()),
                None => Stopped::End,
            };
            self.end_one((queued, at, background), stopped).await;
            self.note(queued, Verdict::Cancelled);
        }
    }

    fn stop_reason(&self) -> Option<&'static str> {
        let is_over = self.context.cancel.is_cancelled() || self.context.is_stopped(&self.members[0].guest);
        is_over.then(|| self.context.stop_reason())
    }

    async fn end_one(&mut self, (queued, at, background): (QueuedCase, usize, Background), why: Stopped) {
        let outcome = self.case_run(queued, &self.members[at]).end(background, why).await;
        if outcome.verdict != Verdict::Passed {
            self.note(queued, outcome.verdict);
        }
        if outcome.is_red {
            self.has_failed = true;
            self.fail_fast();
        }
    }
}
