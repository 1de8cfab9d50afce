//! The cases of a job that go on beside those behind them, to the end of their suite.

use super::{JobRun, QueuedCase};
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
            return self.break_suite(queued, Verdict::Failed);
        }
        let case = self.case_of(queued).0.clone();
        let own: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].takes(&case)).collect();
        let start = |at: &usize| {
            let (run, machine) = (self.case_run(queued, &self.members[*at]), &machines[*at]);
            async move { run.start(machine).await }
        };
        let started = join_all(own.iter().map(start)).await;
        for (at, (background, is_ready)) in own.into_iter().zip(started) {
            match (background, is_ready) {
                (Some(background), Ok(())) => self.background.push((queued, at, background)),
                (Some(background), Err(why)) => self.end_one((queued, at, background), why).await,
                (None, Ok(())) => {}
                (None, Err(why)) => {
                    let (Stopped::NotReady(why) | Stopped::Lost(why)) = why else { continue };
                    let why = self.context.redactor.text(&why);
                    self.case_run(queued, &self.members[at]).report_unrun(Verdict::Infra, &why);
                    self.break_suite(queued, Verdict::Infra);
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

    /// Ends all that go on, the last first.
    pub(super) async fn end_background(&mut self, why: &(dyn Fn() -> Stopped + Sync)) {
        while let Some(last) = self.background.pop() {
            self.end_one(last, why()).await;
        }
    }

    async fn end_one(&mut self, (queued, at, background): (QueuedCase, usize, Background), why: Stopped) {
        let outcome = self.case_run(queued, &self.members[at]).end(background, why).await;
        if outcome.verdict != Verdict::Passed {
            self.break_suite(queued, outcome.verdict);
        }
        if outcome.is_red {
            self.has_failed = true;
            self.fail_fast();
        }
    }

    /// Has the cases of a suite that are left not be run: what they need beside them is not there.
    fn break_suite(&mut self, queued: QueuedCase, verdict: Verdict) {
        let name = self.case_of(queued).0.id.clone();
        self.note(queued, verdict);
        self.broken = Some((queued.of, format!("`{name}`, beside which it is run, is not there")));
    }
}
