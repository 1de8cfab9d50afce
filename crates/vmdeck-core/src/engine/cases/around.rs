//! One attempt at a case with all that is run around it, and the artifacts that come of it.

use super::{
    case_artifacts,
    case_folders::CaseFolders,
    case_run::{AskedAttempt, Attempted, CaseRun, Excuse, unrun},
    command_log::RecordedOutput,
    script_failure::ScriptFailure,
    suite::{ScriptRun, SuiteRun, SuiteScript},
};
use crate::{
    command::RemoteCommand,
    engine::machine::{FailedCase, LeasedMachine, keep_failure},
    host::clock,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{outcome::Verdict, suite::CaseScripts};

/// How long what puts things back may take after the run was cancelled.
const LAST: Duration = Duration::from_secs(30);

impl CaseRun<'_> {
    /// Makes one attempt, with folders of its own in the guest.
    pub(super) async fn attempt(&self, machine: &mut LeasedMachine, asked: AskedAttempt<'_>) -> Attempted {
        let Self { context, guest, suite, case, .. } = *self;
        let is_named = case_artifacts::is_named(case);
        let mut folders = self.of_suite.and_then(|all| all.of(suite, case));
        if folders.is_some() && asked.number > 1 || folders.is_none() && is_named {
            folders = match CaseFolders::renew(context, suite, case, machine).await {
                Ok(folders) => Some(folders),
                Err(fault) => {
                    let message = context.redactor.text(&fault.to_string());
                    return Attempted::unrun(unrun(Verdict::Infra, &message, RecordedOutput::default()), machine);
                }
            };
        }
        let Some(folders) = folders else { return self.attempt_around(machine, asked).await };
        let run = CaseRun { folders: Some(&folders), ..*self };
        let mut attempted = run.attempt_around(machine, asked).await;
        if machine.is_gone() {
            return attempted;
        }
        if !is_named && asked.number == 1 && matches!(attempted.attempt.verdict, Verdict::Passed | Verdict::Skipped) {
            // What there is of it comes with that of the others.
            return attempted;
        }
        let to = self.dir(asked.number).join("artifacts");
        let fetched = folders.fetch((context, guest, suite, &case.id), machine, &to);
        // One that is not used any more may not answer.
        let limit = if machine.is_lost() { LAST } else { Duration::MAX };
        match clock::within(limit, fetched).await {
            Some(Ok(())) => {}
            None => context.events.warn(
                Some(&guest.id),
                format!("case `{}/{}`: its artifacts did not come", suite.id, case.id),
                None,
            ),
            Some(Err(fault)) => {
                let why = context.redactor.text(&fault.to_string());
                let attempt = &mut attempted.attempt;
                if matches!(attempt.verdict, Verdict::Passed | Verdict::Skipped) {
                    // What it has written down is lost: nothing can be said.
                    (attempt.verdict, attempt.message) = (Verdict::Infra, why);
                } else {
                    attempt.message = format!("{}; {why}", attempt.message);
                    attempted.excuse = Excuse::Nothing;
                }
            }
        }
        attempted
    }

    /// Makes one attempt, with what is run around it.
    async fn attempt_around(&self, machine: &mut LeasedMachine, asked: AskedAttempt<'_>) -> Attempted {
        let CaseScripts { before, after, on_failure } = &self.case.around;
        let number = asked.number;
        let mut attempted = match self.script(machine, SuiteScript::BeforeEach, before.as_deref(), number, None).await {
            Ok(()) => self.attempt_itself(machine, asked).await,
            Err(failure) => Attempted::unrun(unrun(failure.verdict, &failure.reason, failure.output), machine),
        };
        let is_usable = |attempted: &Attempted| !attempted.machine_lost && !machine.is_lost();
        if attempted.attempt.verdict == Verdict::Failed && is_usable(&attempted) {
            let (suite, case, round) = (&self.suite.id, &self.case.id, self.round);
            let failed = FailedCase { suite, case, round, attempt: number };
            keep_failure(self.context, self.guest, machine, failed).await;
        }
        if is_usable(&attempted) && !self.case.artifacts.is_empty() {
            self.fetch_artifacts(machine, number, &mut attempted).await;
        }
        if attempted.attempt.verdict == Verdict::Failed && is_usable(&attempted) {
            let verdict = Some(attempted.attempt.verdict);
            let told = self.script(machine, SuiteScript::OnFailure, on_failure.as_deref(), number, verdict).await;
            if let Err(failure) = told {
                let text = format!("case `{}/{}`: {}", self.suite.id, self.case.id, failure.reason);
                self.context.events.warn(Some(&self.guest.id), text, None);
            }
        }
        if is_usable(&attempted) {
            let verdict = Some(attempted.attempt.verdict);
            let ended = self.script(machine, SuiteScript::AfterEach, after.as_deref(), number, verdict).await;
            if let Err(failure) = ended {
                // What it has not put back is not for the next case.
                machine.give_up();
                attempted.machine_lost = true;
                let attempt = &mut attempted.attempt;
                let is_well = matches!(attempt.verdict, Verdict::Passed | Verdict::Skipped);
                attempt.verdict = if is_well { failure.verdict } else { attempt.verdict };
                let before = if attempt.message.is_empty() { String::new() } else { format!("{}; ", attempt.message) };
                attempt.message = format!("{before}{}", failure.reason);
                (attempted.by_subtests, attempted.excuse) = (false, Excuse::Nothing);
            }
        }
        attempted
    }

    /// Fetches what the case's own globs name; what had to come and did not fails it.
    async fn fetch_artifacts(&self, machine: &LeasedMachine, number: u32, attempted: &mut Attempted) {
        let Self { context, guest, suite, case, .. } = *self;
        let (to, name) = (self.dir(number).join("artifacts"), format!("{}/{}", suite.id, case.id));
        let globs = &case.artifacts;
        let of = (context, guest, suite, Some(&case.id));
        let never = CancellationToken::new();
        let missing = match case_artifacts::fetch(of, machine, globs, self.base_command(), (&to, &never)).await {
            Ok(fetched) => fetched.missing(),
            Err(fault) => Some(fault.to_string()),
        };
        let Some(why) = missing.map(|why| context.redactor.text(&why)) else { return };
        let attempt = &mut attempted.attempt;
        if suite.artifacts_required && matches!(attempt.verdict, Verdict::Passed | Verdict::Skipped) {
            (attempt.verdict, attempt.message) = (Verdict::Failed, why);
            attempted.excuse = Excuse::Nothing;
        } else {
            context.events.warn(Some(&guest.id), format!("case `{name}`: {why}"), None);
        }
    }

    /// Runs one of the scripts around the case, if it has it.
    async fn script(
        &self,
        machine: &LeasedMachine,
        which: SuiteScript,
        text: Option<&str>,
        attempt: u32,
        verdict: Option<Verdict>,
    ) -> Result<(), ScriptFailure> {
        let Some(text) = text else { return Ok(()) };
        let Self { context, guest, suite, told, .. } = *self;
        let mut command = RemoteCommand { script: text.to_owned(), ..self.attempt_command(attempt) };
        if let Some(verdict) = verdict {
            command.env.insert("VMDECK_VERDICT".to_owned(), verdict.to_string());
        }
        // What puts things back is run also where the run is cancelled, and then has less time.
        let never = CancellationToken::new();
        let is_over = which == SuiteScript::AfterEach && context.cancel.is_cancelled();
        let cancel = if which == SuiteScript::AfterEach { &never } else { &context.cancel };
        let limit = if is_over { suite.setup_timeout.min(LAST) } else { suite.setup_timeout };
        let dir = self.dir(attempt).join(format!("+{which}"));
        let run = ScriptRun { which, command, dir, limit, case: Some(&self.case.id), cancel };
        SuiteRun { context, guest, suite, told }.run_script(machine, run).await.map(drop)
    }
}
