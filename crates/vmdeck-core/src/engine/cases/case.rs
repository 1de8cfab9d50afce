//! Runs one case in a machine that is up, with its retries, and reports how it ended.
//!
//! Three things are kept apart: the code failed, the guest failed, nobody can tell. No status means `infra`, never a pass.

use super::{
    case_artifacts::{self, CaseArtifacts},
    command_log::{CommandLog, OutputOrigin, RecordedOutput},
    judge::{judge, judge_with_results, with_running},
    peers::PeerWatch,
    reboot::Reboots,
    result_files::ResultFiles,
    script_failure::ScriptFailure,
    subtests::Subtests,
    suite::{ScriptRun, SuiteRun, SuiteScript},
    supervise::{CaseWork, End, Watched},
};
use crate::{
    command::{RemoteCommand, Shell, powershell, sh_quote},
    engine::{
        context::RunContext,
        machine::{LeasedMachine, diagnose, save_memory},
    },
    host::{clock, files},
    transport::source,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{Attempt, CaseCause, EventKind},
    guest::{Guest, SurvivorPolicy},
    outcome::Verdict,
    quantity::{show_count, show_duration},
    subtest::{Subtest, SubtestTally},
    suite::{Case, CaseAction, CaseScripts, Suite},
};
use vmdeck_results::rerun_command;

/// Bytes that a record must still take for its console to be believed.
const ROOM: usize = 4096;
/// How long what puts things back may take after the run was cancelled.
const LAST: Duration = Duration::from_secs(30);
/// How long a guest that hangs may take to write its stacks.
const STACKS: Duration = Duration::from_secs(10);

/// One case of one guest, in one of the rounds: where its events, logs and verdict belong.
#[derive(Clone, Copy)]
pub(super) struct CaseRun<'a> {
    pub(super) context: &'a RunContext,
    pub(super) guest: &'a Guest,
    pub(super) suite: &'a Suite,
    pub(super) case: &'a Case,
    pub(super) round: u32,
    /// What its commands are told of the guests that are up together.
    pub(super) told: &'a BTreeMap<String, String>,
    /// Where its artifacts go in the guest, while an attempt at it is made that has such a folder.
    pub(super) artifacts: Option<&'a str>,
}

/// Which attempt is to be made.
#[derive(Clone, Copy)]
struct AskedAttempt<'a> {
    /// The number of it, from 1.
    number: u32,
    peers: &'a [PeerWatch],
    /// The script that runs only these of the case's own tests; `None` = the whole case.
    partial: Option<(&'a str, &'a [Subtest])>,
}

/// How one attempt at a case ended.
struct Attempted {
    attempt: Attempt,
    /// The machine cannot be used any more.
    machine_lost: bool,
    /// The counts of the tests that it ran itself, where it says where their results are.
    subtests: Option<SubtestTally>,
    /// The first of them that failed.
    failed: Vec<Subtest>,
    /// Nothing but those speaks against it.
    by_subtests: bool,
}

impl Attempted {
    /// Returns an attempt whose command was never run.
    fn unrun(attempt: Attempt, machine: &LeasedMachine) -> Self {
        let machine_lost = machine.is_lost();
        Self { attempt, machine_lost, subtests: None, failed: Vec::new(), by_subtests: false }
    }
}

/// How a case ended, all attempts taken together.
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// The machine cannot be used any more.
    pub(super) machine_lost: bool,
}

impl CaseRun<'_> {
    /// Runs the case with its retries and reports how it ended. The peers are the other machines that it cannot do without.
    pub(super) async fn run(&self, machine: &mut LeasedMachine, peers: &[PeerWatch]) -> Outcome {
        let Self { context, guest, suite, case, round, .. } = *self;
        let retries = context.plan.options.retries.unwrap_or(case.retries);
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
            });
            let partial = script.as_deref().map(|script| (script, &only[..]));
            let Attempted { mut attempt, machine_lost, subtests, failed, by_subtests } =
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
                attempt.verdict = if case.fails_when_flaky { Verdict::Failed } else { Verdict::Flaky };
                attempt.message = format!("passed at attempt {number}; before: {}", earlier[0].message);
            }
            let flaky = subtests.map_or(0, |tally| tally.flaky);
            if attempt.verdict == Verdict::Passed && case.fails_when_flaky && flaky > 0 {
                attempt.verdict = Verdict::Failed;
                attempt.message = format!("{} passed only when tried again", show_count(flaky as usize, "test"));
            }
            if attempt.verdict == Verdict::Passed && !only.is_empty() {
                let count = show_count(only.len(), "test");
                attempt.message = format!("only what had failed was run again: {count} of its own");
            }
            let verdict = attempt.verdict;
            self.report(attempt, earlier, None, (subtests, by_subtests));
            return Outcome { verdict, machine_lost };
        }
    }

    /// Reports a verdict on a case that was never run.
    pub(super) fn report_unrun(&self, verdict: Verdict, message: &str) {
        self.report(unrun(verdict, message, RecordedOutput::default()), Vec::new(), None, (None, false));
    }

    /// Reports that the setup of its suite failed, with what the setup wrote.
    pub(super) fn report_setup_failed(&self, verdict: Verdict, failure: &ScriptFailure) {
        let attempt = unrun(verdict, &failure.reason, failure.output.clone());
        self.report(attempt, Vec::new(), Some(CaseCause::Setup), (None, false));
    }

    fn report(
        &self,
        last: Attempt,
        earlier: Vec<Attempt>,
        cause: Option<CaseCause>,
        (subtests, by_subtests): (Option<SubtestTally>, bool),
    ) {
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
        });
    }

    /// Makes one attempt, with a folder for its artifacts where it wants one.
    async fn attempt(&self, machine: &mut LeasedMachine, asked: AskedAttempt<'_>) -> Attempted {
        if !case_artifacts::is_wanted(self.case) {
            return self.attempt_around(machine, asked).await;
        }
        let Self { context, guest, suite, case, .. } = *self;
        let below = format!("vmdeck-{}-artifacts/{}/{}", context.plan.run.short(), suite.id, case.id);
        let folder = match CaseArtifacts::make(machine, &below, self.base_command()).await {
            Ok(folder) => folder,
            Err(fault) => {
                let message = context.redactor.text(&fault.to_string());
                return Attempted::unrun(unrun(Verdict::Infra, &message, RecordedOutput::default()), machine);
            }
        };
        let run = CaseRun { artifacts: Some(&folder.folder), ..*self };
        let mut attempted = run.attempt_around(machine, asked).await;
        if attempted.machine_lost && machine.is_lost() {
            return attempted;
        }
        let to = self.dir(asked.number).join("artifacts");
        match folder.fetch((context, guest, suite), machine, &to).await {
            Ok(0) => {}
            Ok(count) => case_artifacts::tell(context, &guest.id, &format!("{}/{}", suite.id, case.id), count),
            Err(fault) => {
                let why = context.redactor.text(&fault.to_string());
                let attempt = &mut attempted.attempt;
                if matches!(attempt.verdict, Verdict::Passed | Verdict::Skipped) {
                    // What it has written down is lost: nothing can be said.
                    (attempt.verdict, attempt.message) = (Verdict::Infra, why);
                } else {
                    attempt.message = format!("{}; {why}", attempt.message);
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
                attempted.by_subtests = false;
            }
        }
        attempted
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
        let mut command = RemoteCommand { script: text.to_owned(), ..self.base_command() };
        command.env.insert("VMDECK_CASE".to_owned(), self.case.id.to_string());
        command.env.insert("VMDECK_ATTEMPT".to_owned(), attempt.to_string());
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
        SuiteRun { context, guest, suite, told }.run_script(machine, run).await
    }

    /// Makes one attempt, of the case alone.
    async fn attempt_itself(&self, machine: &mut LeasedMachine, asked: AskedAttempt<'_>) -> Attempted {
        let Self { context, guest, suite, case, .. } = *self;
        let AskedAttempt { number, peers, partial } = asked;
        let (start, dir) = (clock::now(), self.dir(number));
        let origin = OutputOrigin { guest: guest.id.clone(), suite: suite.id.clone(), case: Some(case.id.clone()) };
        let mut log = CommandLog::open(
            &dir,
            origin,
            context.events.clone(),
            &context.redactor,
            &case.expect,
            context.plan.host.log_size,
        );
        let limit = case.timeout.unwrap_or(guest.case_timeout);
        let (script, only) = partial.map_or((None, &[][..]), |(script, only)| (Some(script), only));
        let subtests = self.subtests(&dir, number, only);
        let files = match &case.results.files[..] {
            [] => None,
            globs => {
                Some(ResultFiles::look(context, machine, globs, self.base_command(), suite.artifacts_timeout).await)
            }
        };
        log.report_to(subtests.clone());
        let end = {
            let work = self.watch(machine, (number, script), limit, peers, &mut log);
            let pulse = async {
                match &subtests {
                    Some(subtests) => subtests.pulse().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                end = work => end,
                () = pulse => unreachable!("it has no end"),
            }
        };
        let took_ms = clock::ms_since(start);
        let mut output = log.finish();
        let results = match &subtests {
            Some(subtests) => {
                let mut results = subtests.finish_stream(&case.results);
                if let (Some(files), End::Exit(_) | End::Timeout(None)) = (&files, &end) {
                    results.merge(files.read(context, machine, subtests).await);
                }
                subtests.check_awaited(only.len(), &mut results);
                output.lost = output.lost.or(subtests.finish());
                Some(results)
            }
            None => None,
        };
        for text in results.iter().flat_map(|results| &results.warnings) {
            let text = format!("case `{}/{}`: {text}", suite.id, case.id);
            context.events.warn(Some(&guest.id), context.redactor.text(&text), None);
        }
        if output.lost.is_none()
            && let Err(e) = files::check_room(&dir, ROOM)
        {
            // The hypervisor writes the console there, and says nothing when it cannot.
            output.lost = Some(format!("the console may not be recorded: the record's disk takes nothing more: {e}"));
        }
        let clear = |text: String| context.redactor.text(&text);
        let mut by_subtests = false;
        let (verdict, exit, message, machine_lost) = match end {
            End::Exit(exit) => {
                let judged = judge(&case.expect, &exit, &output);
                let judged = judge_with_results(judged, case, &exit, results.as_ref());
                by_subtests = judged.by_subtests;
                (judged.verdict, exit.code(), clear(judged.reason), false)
            }
            End::Timeout(still_runs) => {
                let took = format!("took longer than {}", show_duration(limit));
                self.diagnose_hang(machine, &took).await;
                match still_runs {
                    None => (Verdict::Failed, None, format!("{took} and was ended"), false),
                    // Nothing else may run beside it, unless the config says so.
                    Some(why) => {
                        let lost = machine.is_lost() || guest.survivors == SurvivorPolicy::Replace;
                        (Verdict::Failed, None, clear(format!("{took}; {why}")), lost)
                    }
                }
            }
            End::Cancelled => (Verdict::Cancelled, None, context.stop_reason().to_owned(), false),
            End::Refused(fault) => (Verdict::Infra, None, clear(fault.with_remedy()), false),
            End::Wrong(fault) => (Verdict::Failed, None, clear(fault.to_string()), true),
            End::Complaint { fault, spoils } => (Verdict::Failed, None, clear(fault.to_string()), spoils),
            End::Crashed(fault) => {
                save_memory(context, guest, machine).await;
                diagnose(context, guest, &machine.controller, &fault).await;
                let why = fault.to_string();
                let why = why.strip_prefix("the guest's system crashed: ").unwrap_or(&why);
                (guest.crash.verdict(), None, clear(format!("the guest's system crashed during the case: {why}")), true)
            }
            End::PeerLost(fault) => {
                diagnose(context, guest, &machine.controller, &fault).await;
                (Verdict::Infra, None, clear(fault.to_string()), false)
            }
            End::Lost(fault) => {
                diagnose(context, guest, &machine.controller, &fault).await;
                // A kernel that panicked where only the output shows it is the case's failure all the same.
                let panic = results.as_ref().and_then(|results| results.kernel_panic.clone());
                let verdict = panic.as_ref().map_or(Verdict::Infra, |_| guest.crash.verdict());
                let panic = panic.map(|line| format!("{line}: ")).unwrap_or_default();
                (verdict, None, clear(format!("{panic}{fault}")), true)
            }
        };
        let message = if exit.is_none() { clear(with_running(message, results.as_ref())) } else { message };
        let RecordedOutput { stdout_tail, stderr_tail, .. } = output;
        let attempt = Attempt { verdict, exit, took_ms, message, stdout_tail, stderr_tail };
        let failed = subtests.as_ref().map(Subtests::failed).unwrap_or_default();
        Attempted { attempt, machine_lost, subtests: results.map(|results| results.tally), failed, by_subtests }
    }

    /// Returns what reads the results of the tests that the case runs itself.
    fn subtests(&self, dir: &Path, attempt: u32, only: &[Subtest]) -> Option<Subtests> {
        let Self { context, guest, suite, case, round, .. } = *self;
        let origin = OutputOrigin { guest: guest.id.clone(), suite: suite.id.clone(), case: Some(case.id.clone()) };
        let (events, redactor) = (context.events.clone(), context.redactor.clone());
        Subtests::new(&case.results, dir, (origin, case.id.clone()), (round, attempt), events, redactor, only)
    }

    /// Returns what every command of the case has in common.
    fn base_command(&self) -> RemoteCommand {
        let Self { context, guest, suite, case, told, .. } = *self;
        let base = SuiteRun { context, guest, suite, told }.base_command();
        let dir = case.folder(base.dir.as_deref());
        let mut env = base.env;
        env.extend(case.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        env.extend(self.artifacts.map(|folder| (case_artifacts::VARIABLE.to_owned(), folder.to_owned())));
        RemoteCommand { env, dir, run_as: case.run_as.unwrap_or(base.run_as), ..base }
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

    /// Returns the command in the guest, which a program of this host does not have.
    fn command(&self, machine: &LeasedMachine, (attempt, script): (u32, Option<&str>)) -> Result<RemoteCommand> {
        let mut base = self.base_command();
        base.env.insert("VMDECK_CASE".to_owned(), self.case.id.to_string());
        base.env.insert("VMDECK_ATTEMPT".to_owned(), attempt.to_string());
        if let Some(script) = script {
            let shell = self.case.shell.clone().unwrap_or_else(|| base.shell.clone());
            return Ok(RemoteCommand { script: script.to_owned(), shell, ..base });
        }
        match &self.case.action {
            CaseAction::Run(script) => {
                let shell = self.case.shell.clone().unwrap_or_else(|| base.shell.clone());
                Ok(RemoteCommand { script: script.clone(), shell, ..base })
            }
            CaseAction::Script(path) => source::script(path, &base, machine.shell()),
            CaseAction::Host(_) => Ok(base),
        }
    }

    /// Runs what the case is to its end, through the restarts that it may ask for.
    async fn watch(
        &self,
        machine: &mut LeasedMachine,
        (attempt, script): (u32, Option<&str>),
        limit: Duration,
        peers: &[PeerWatch],
        log: &mut CommandLog,
    ) -> End {
        let Self { context, guest, suite, case, .. } = *self;
        let dir = self.dir(attempt);
        let mut reboots = Reboots::new(context, guest, suite, case);
        loop {
            let mut command = match self.command(machine, (attempt, script)) {
                Ok(command) => command,
                Err(fault) => return End::Refused(fault),
            };
            let work = if let CaseAction::Host(program) = &case.action {
                CaseWork::Host(program, &dir)
            } else {
                if let Err(fault) = reboots.prepare(machine, &mut command).await {
                    return if fault.blame() == Blame::User { End::Refused(fault) } else { End::Lost(fault) };
                }
                CaseWork::Guest(&command)
            };
            let watched = Watched { context, guest, machine, work, limit, trouble_ignore: &case.trouble_ignore, peers };
            let end = watched.run(log, &context.cancel).await;
            if matches!(&case.action, CaseAction::Host(program) if program.restarts) {
                return reboots.after_program(end, machine).await;
            }
            if let Some(end) = reboots.after(end, machine, log).await {
                return end;
            }
        }
    }

    /// Asks a guest that hangs for its stacks while it still can be asked; they go to its console.
    async fn diagnose_hang(&self, machine: &LeasedMachine, took: &str) {
        let _ = machine.console.muted(STACKS, machine.controller.dump_stacks()).await;
        let fault = Fault::infra(format!("case `{}/{}` {took}", self.suite.id, self.case.id));
        diagnose(self.context, self.guest, &machine.controller, &fault).await;
    }

    /// Returns the folder of an attempt in the record.
    fn dir(&self, attempt: u32) -> PathBuf {
        let mut dir = self.context.guest_dir(self.guest).join(self.suite.id.as_str()).join(self.case.id.as_str());
        if self.round > 1 {
            dir.push(format!("round-{}", self.round));
        }
        if attempt > 1 {
            dir.push(format!("attempt-{attempt}"));
        }
        dir
    }
}

fn unrun(verdict: Verdict, message: &str, output: RecordedOutput) -> Attempt {
    let RecordedOutput { stdout_tail, stderr_tail, .. } = output;
    Attempt { verdict, exit: None, took_ms: 0, message: message.to_owned(), stdout_tail, stderr_tail }
}
