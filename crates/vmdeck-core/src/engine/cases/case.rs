//! Runs one case in a machine that is up, with its retries, and reports how it ended.
//!
//! Three things are kept apart: the code failed, the guest failed, nobody can tell. No status means `infra`, never a pass.

use super::{
    case_run::{AskedAttempt, Attempted, CaseRun, Excuse, unrun},
    command_log::RecordedOutput,
    peers::PeerWatch,
    script_failure::ScriptFailure,
};
use crate::{
    command::{Shell, powershell, sh_quote},
    engine::machine::LeasedMachine,
};
use vmdeck_model::{
    event::{Attempt, CaseCause, EventKind},
    outcome::Verdict,
    quantity::show_count,
    quarantine::ExcusedSubtests,
    subtest::{Subtest, SubtestTally},
    suite::FlakyPolicy,
};
use vmdeck_results::rerun_command;

/// How a case ended, all attempts taken together.
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// It makes the run red.
    pub(super) is_red: bool,
    /// The machine cannot be used any more.
    pub(super) machine_lost: bool,
}

/// What is said of a case besides its verdict.
#[derive(Default)]
struct CaseMarks {
    subtests: Option<SubtestTally>,
    by_subtests: bool,
    quarantined: Option<String>,
    cause: Option<CaseCause>,
}

impl CaseRun<'_> {
    /// Runs the case with its retries and reports how it ended. The peers are the other machines that it cannot do without.
    pub(super) async fn run(&self, machine: &mut LeasedMachine, peers: &[PeerWatch]) -> Outcome {
        let Self { context, guest, suite, case, round, .. } = *self;
        let excused = context.plan.quarantine.of_case(&suite.id, &case.id, &guest.key).map(str::to_owned);
        let listed = excused.is_some() || case.flaky != FlakyPolicy::Quarantine || !self.excused_subtests().is_empty();
        let retries = if listed { context.plan.options.retries.unwrap_or(case.retries) } else { 0 };
        let mut earlier: Vec<Attempt> = Vec::new();
        // The tests of its own that are run, where it is not the whole case, and the counts of those that are not run again.
        let (mut only, mut settled) = (case.results.only.clone(), SubtestTally::default());
        loop {
            let number = u32::try_from(earlier.len()).unwrap_or(u32::MAX) + 1;
            let script = self.rerun_script(machine, &only);
            if script.is_none() {
                (only, settled) = (Vec::new(), SubtestTally::default());
            }
            context.events.send(EventKind::CaseStarted {
                guest: guest.id.clone(),
                suite: suite.id.clone(),
                case: case.id.clone(),
                round,
                attempt: number,
                only: script.as_ref().map(|_| u32::try_from(only.len()).unwrap_or(u32::MAX)),
                background: false,
            });
            let partial = script.as_deref().map(|script| (script, &only[..]));
            let Attempted { mut attempt, machine_lost, subtests, failed, by_subtests, excuse } =
                self.attempt(machine, AskedAttempt { number, peers, partial }).await;
            let subtests = subtests.map(|mut tally| {
                tally.merge(&settled);
                tally
            });
            let may_retry = !machine_lost && !context.cancel.is_cancelled();
            if attempt.verdict == Verdict::Failed && number <= retries && may_retry {
                context.events.send(EventKind::Retrying {
                    guest: Some(guest.id.clone()),
                    what: format!("{}/{}", suite.id, case.id),
                    attempt: number + 1,
                    of: retries + 1,
                    after_ms: 0,
                    why: attempt.message.clone(),
                });
                earlier.push(attempt);
                let tally = subtests.unwrap_or_default();
                let is_nameable = by_subtests && failed.len() == tally.failures() as usize;
                only = if is_nameable { failed } else { Vec::new() };
                settled = SubtestTally { failed: 0, error: 0, ..tally };
                continue;
            }
            if attempt.verdict == Verdict::Passed && !earlier.is_empty() {
                let fails = case.flaky == FlakyPolicy::Fail;
                attempt.verdict = if fails { Verdict::Failed } else { Verdict::Flaky };
                attempt.message = format!("passed at attempt {number}; before: {}", earlier[0].message);
            }
            let flaky = subtests.map_or(0, |tally| tally.flaky);
            if attempt.verdict == Verdict::Passed && case.flaky == FlakyPolicy::Fail && flaky > 0 {
                attempt.verdict = Verdict::Failed;
                attempt.message = format!("{} passed only when tried again", show_count(flaky as usize, "test"));
            }
            if attempt.verdict == Verdict::Passed && !only.is_empty() {
                let count = show_count(only.len(), "test");
                attempt.message = format!("only what had failed was run again: {count} of its own");
            }
            let all = subtests.map_or(0, |tally| tally.failures() as usize);
            let of_subtests = failed.iter().map(|test| test.quarantined.clone()).collect::<Option<Vec<_>>>();
            // All of them, and nothing else.
            let of_subtests =
                of_subtests.filter(|issues| by_subtests && excuse == Excuse::Tests && issues.len() == all);
            let issue = excused.clone().or_else(|| of_subtests.and_then(|issues| issues.into_iter().next()));
            let quarantined = issue.filter(|_| attempt.verdict == Verdict::Failed && excuse != Excuse::Nothing);
            let (verdict, is_red) = (attempt.verdict, attempt.verdict.is_failure() && quarantined.is_none());
            self.report(attempt, earlier, CaseMarks { subtests, by_subtests, quarantined, cause: None });
            return Outcome { verdict, is_red, machine_lost };
        }
    }

    /// Reports a verdict on a case that was never run.
    pub(super) fn report_unrun(&self, verdict: Verdict, message: &str) {
        self.report(unrun(verdict, message, RecordedOutput::default()), Vec::new(), CaseMarks::default());
    }

    /// Reports how the case ended that went on beside others.
    pub(super) fn report_background(&self, attempt: Attempt) -> bool {
        let excused = self.context.plan.quarantine.of_case(&self.suite.id, &self.case.id, &self.guest.key);
        let quarantined = excused.filter(|_| attempt.verdict == Verdict::Failed).map(str::to_owned);
        let is_red = attempt.verdict.is_failure() && quarantined.is_none();
        self.report(attempt, Vec::new(), CaseMarks { quarantined, ..CaseMarks::default() });
        is_red
    }

    /// Reports that the cases for which it stands could not be found.
    pub(super) fn report_not_found(&self, failure: &ScriptFailure) {
        let attempt = unrun(failure.verdict, &failure.reason, failure.output.clone());
        self.report(attempt, Vec::new(), CaseMarks::default());
    }

    /// Reports that the setup of its suite failed, with what the setup wrote.
    pub(super) fn report_setup_failed(&self, verdict: Verdict, failure: &ScriptFailure) {
        let attempt = unrun(verdict, &failure.reason, failure.output.clone());
        self.report(attempt, Vec::new(), CaseMarks { cause: Some(CaseCause::Setup), ..CaseMarks::default() });
    }

    /// Returns whether some of its own tests are in quarantine.
    fn excused_subtests(&self) -> ExcusedSubtests {
        let Self { context, guest, suite, case, .. } = *self;
        context.plan.quarantine.of_subtests(&suite.id, &case.id, &guest.key)
    }

    fn report(&self, last: Attempt, earlier: Vec<Attempt>, marks: CaseMarks) {
        let CaseMarks { subtests, by_subtests, quarantined, cause } = marks;
        self.context.events.send(EventKind::CaseEnded {
            guest: self.guest.id.clone(),
            suite: self.suite.id.clone(),
            case: self.case.id.clone(),
            round: self.round,
            verdict: last.verdict,
            exit: last.exit,
            took_ms: last.took_ms,
            message: last.message,
            stdout_tail: last.stdout_tail,
            stderr_tail: last.stderr_tail,
            cause,
            earlier,
            subtests,
            by_subtests,
            quarantined,
        });
    }

    /// Returns the script that runs only these of the case's own tests; `None` = there is none.
    fn rerun_script(&self, machine: &LeasedMachine, only: &[Subtest]) -> Option<String> {
        let template = self.case.results.rerun.as_ref()?;
        let tests: Vec<&Subtest> = only.iter().collect();
        match machine.shell() {
            Shell::Posix => rerun_command(template, &tests, &sh_quote),
            Shell::PowerShell => rerun_command(template, &tests, &powershell::quote),
        }
    }
}
