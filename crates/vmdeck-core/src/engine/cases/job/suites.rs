//! The beginning and the end of a suite in the machines of a job.

use super::job_run::{JobRun, QueuedCase, SuiteRound};
use crate::engine::{
    cases::{member_folders, members::Member, requirements, script_failure::ScriptFailure, setup_key},
    machine::{self, LeasedMachine, SetupKey},
};
use futures_util::future::join_all;
use std::{collections::BTreeMap, path::PathBuf};
use vmdeck_model::{error::Result, guest::Fresh, outcome::Verdict, suite::Case};

impl JobRun<'_> {
    /// Brings in what a suite requires and runs its setup, in every guest at once.
    pub(super) async fn prepare_suite(
        &self,
        round: SuiteRound,
        machines: &[LeasedMachine],
    ) -> Result<(), ScriptFailure> {
        let prepare = |(member, machine)| async move {
            let run = self.suite_run(round, member);
            requirements::meet(&run, machine).await?;
            run.set_up(machine).await
        };
        join_all(self.members.iter().zip(machines).map(prepare)).await.into_iter().collect()
    }

    /// Returns what the setup that is run first in the next machine depends on, where it is frozen after that.
    pub(super) async fn next_setup(&self) -> Result<Option<SetupKey>> {
        let ([member], Some(next)) = (&self.members[..], self.queue.front()) else { return Ok(None) };
        setup_key::of(self.context, &member.guest, &self.suites[next.of.suite]).await
    }

    /// Returns whether the machine goes on from where the setup of this suite had been run.
    pub(super) fn is_prepared(&self, round: SuiteRound, machines: &[LeasedMachine]) -> bool {
        matches!(machines, [machine] if machine.is_set_up_for(&self.suites[round.suite].id))
    }

    /// Freezes the machine in which the setup of a suite has just been run; returns whether others go on from there now.
    pub(super) async fn freeze(&mut self, round: SuiteRound, machines: &mut [LeasedMachine]) -> bool {
        if self.frozen.contains(&round.suite) {
            // It was, and the snapshot is gone: somebody removes what is made here.
            return false;
        }
        let is_frozen = self.try_freeze(round, machines).await;
        if is_frozen {
            self.frozen.insert(round.suite);
        }
        is_frozen
    }

    async fn try_freeze(&self, round: SuiteRound, machines: &mut [LeasedMachine]) -> bool {
        let ([member], [machine]) = (&self.members[..], machines) else { return false };
        let suite = &self.suites[round.suite];
        let known = setup_key::of(self.context, &member.guest, suite).await.ok().flatten();
        let now = setup_key::now(self.context, &member.guest, suite).await.ok().flatten();
        // Where the code has changed since the run looked at it, nobody knows which of the two is in the machine.
        let Some(key) = known.filter(|known| now.as_ref() == Some(known)) else { return false };
        match machine::freeze_set_up(self.context, &member.machine, machine, &key).await {
            Ok(is_frozen) => is_frozen,
            Err(fault) => {
                self.suite_run(round, member).warn(&fault.to_string());
                machine.give_up();
                true
            }
        }
    }

    /// Makes the folders of the cases of a suite that are run in these machines.
    pub(super) async fn begin_folders(&mut self, round: SuiteRound, machines: &[LeasedMachine]) {
        let most = if self.wants_fresh(Fresh::Case) { 1 } else { usize::MAX };
        let suite = &self.suites[round.suite];
        // One that is skipped is not the one for which a machine of its own is there.
        let is_run = |queued: &&QueuedCase| queued.of == round && self.lacks(**queued).is_none();
        let cases: Vec<&Case> =
            self.queue.iter().filter(is_run).take(most).map(|queued| &suite.cases[queued.case]).collect();
        member_folders::add(self.context, suite, &mut self.members, machines, &cases).await;
    }

    /// Ends a suite in these machines; artifacts that had to come and did not make it fail.
    pub(super) async fn finish_suite(&mut self, round: SuiteRound, machines: &[LeasedMachine]) {
        self.end_background().await;
        self.current = None;
        let mut ends = Vec::new();
        for (member, machine) in self.members.iter().zip(machines) {
            let (run, places) = (self.suite_run(round, member), self.places(round, member));
            ends.push(async move {
                // Before the teardown, which may take away what it finds.
                let of_cases = member_folders::finish(&run, member, machine, &places).await;
                let missing = run.finish(machine).await.or(of_cases);
                missing.filter(|_| run.suite.artifacts_required).map(|why| (run, why))
            });
        }
        let missing = join_all(ends).await;
        let mut is_incomplete = false;
        for (run, why) in missing.into_iter().flatten() {
            is_incomplete = true;
            run.report_missing_artifacts(&why, round.round);
        }
        self.forget_folders();
        if is_incomplete {
            self.has_failed = true;
            self.fail_fast();
        }
    }

    /// Fetches what there is of the cases of a suite that does not come to its end: the run was cancelled, or its machines are given up.
    pub(super) async fn leave_suite(&mut self, machines: &[LeasedMachine]) {
        let Some(round) = self.current.take() else { return };
        let mut ends = Vec::new();
        for (member, machine) in self.members.iter().zip(machines) {
            let (run, places) = (self.suite_run(round, member), self.places(round, member));
            ends.push(async move { member_folders::rescue(&run, member, machine, &places).await });
        }
        join_all(ends).await;
        self.forget_folders();
    }

    /// What was made for one suite is gone with it.
    fn forget_folders(&mut self) {
        for member in &mut self.members {
            member.folders = None;
        }
    }

    /// Returns the place in the record of the artifacts of each case of a suite, by the name of its folder.
    fn places(&self, round: SuiteRound, member: &Member) -> BTreeMap<String, PathBuf> {
        let cases = 0..self.suites[round.suite].cases.len();
        let runs = cases.map(|case| self.case_run(QueuedCase { of: round, case }, member));
        runs.map(|run| (run.case.id.folder(), run.dir(1).join("artifacts"))).collect()
    }

    /// Notes that the suite's own preparation failed: nothing can be said about its cases.
    pub(super) fn fail_suite(&mut self, round: SuiteRound, failure: &ScriptFailure) {
        self.has_failed = true;
        let (failed, rest): (Vec<QueuedCase>, Vec<QueuedCase>) =
            std::mem::take(&mut self.queue).into_iter().partition(|queued| queued.of == round);
        self.queue = rest.into();
        let verdict = if self.context.cancel.is_cancelled() { Verdict::Cancelled } else { failure.verdict };
        for queued in failed {
            self.case_runs(queued).for_each(|run| run.report_setup_failed(verdict, failure));
        }
        self.fail_fast();
    }
}
