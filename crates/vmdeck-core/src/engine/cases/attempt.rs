//! One attempt at a case, of the case alone: its command, the restarts that it may ask for, its output and results, and the verdict.

use super::{
    case_run::{AskedAttempt, Attempted, CaseRun, Excuse},
    command_log::{CommandLog, OutputOrigin, RecordedOutput},
    judge::{judge, judge_with_results, with_running},
    peers::PeerWatch,
    reboot::Reboots,
    result_files::ResultFiles,
    steps::CaseEnd,
    subtests::Subtests,
    supervise::{CaseWork, End, Watched},
};
use crate::{
    command::RemoteCommand,
    engine::machine::{LeasedMachine, diagnose, save_memory},
    host::{clock, files},
    transport::{file_stamps, source},
};
use std::{path::Path, time::Duration};
use vmdeck_model::{
    error::{Fault, Result},
    event::Attempt,
    guest::SurvivorPolicy,
    outcome::Verdict,
    quantity::show_duration,
    subtest::Subtest,
    suite::{CaseAction, ResultSources},
};

/// Bytes that a record must still take for its console to be believed.
const ROOM: usize = 4096;
/// How long a guest that hangs may take to write its stacks.
const STACKS: Duration = Duration::from_secs(10);

impl CaseRun<'_> {
    /// Makes one attempt, of the case alone.
    pub(super) async fn attempt_itself(&self, machine: &mut LeasedMachine, asked: AskedAttempt<'_>) -> Attempted {
        let Self { context, guest, suite, case, .. } = *self;
        let AskedAttempt { number, peers, partial } = asked;
        if let CaseAction::Manual(question) = &case.action {
            return self.ask(machine, question).await;
        }
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
        let limit = self.limit();
        let (script, only) = partial.map_or((None, &[][..]), |(script, only)| (Some(script), only));
        let subtests = self.subtests(&dir, number, only);
        let files = match &case.results.files[..] {
            [] => None,
            globs => {
                Some(ResultFiles::look(context, machine, globs, self.base_command(), suite.artifacts_timeout).await)
            }
        };
        log.report_to(subtests.clone());
        let CaseEnd { end, step } = {
            let work = async {
                if let (CaseAction::Steps(steps), None) = (&case.action, script) {
                    self.watch_steps(steps, machine, (number, limit), peers, &mut log).await
                } else {
                    let end = self.watch(machine, (number, script), limit, peers, &mut log).await;
                    CaseEnd { end, step: None }
                }
            };
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
        if output.lost.is_none() && output.unmet.is_none() && matches!(&end, End::Exit(exit) if exit.code().is_some()) {
            match self.missing_files(machine).await {
                Ok(missing) => output.unmet = missing,
                Err(fault) => output.lost = Some(fault.to_string()),
            }
        }
        // A program that a signal ended says so by a code above 128.
        let is_whole = matches!(&end, End::Exit(exit) if exit.code().is_some_and(|code| code < 128));
        let is_well_otherwise = is_whole && output.unmet.is_none() && output.lost.is_none();
        let clear = |text: String| context.redactor.text(&text);
        let mut by_subtests = false;
        let (verdict, exit, message, machine_lost) = match end {
            // Whatever the last step is to end with, those before it end with 0.
            End::Exit(exit) if step.as_ref().is_some_and(|step| !step.is_last) && exit.code() != case.expect.skip => {
                (Verdict::Failed, exit.code(), clear(exit.to_string()), false)
            }
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
        let message = match step {
            // Which of them ran the tests that failed, nobody knows.
            Some(step) if !message.is_empty() && !by_subtests => format!("{}: {message}", step.name),
            _ => message,
        };
        let message = if exit.is_none() { clear(with_running(message, results.as_ref())) } else { message };
        let RecordedOutput { stdout_tail, stderr_tail, .. } = output;
        let attempt = Attempt { verdict, exit, took_ms, message, stdout_tail, stderr_tail };
        let failed = subtests.as_ref().map(Subtests::failed).unwrap_or_default();
        let is_optional = case.results.streams.iter().any(|word| word == ResultSources::AUTO);
        let is_excusable = results.as_ref().is_none_or(|results| {
            results.incomplete.is_empty()
                && (results.tally.total() > 0 || case.results.allow_empty || (is_optional && !results.is_recognized))
        });
        let excuse = match (is_excusable, is_well_otherwise) {
            (false, _) => Excuse::Nothing,
            (true, false) => Excuse::Case,
            (true, true) => Excuse::Tests,
        };
        let subtests = results.map(|results| results.tally);
        Attempted { attempt, machine_lost, subtests, failed, by_subtests, excuse }
    }

    /// Returns which of the files that the case has to leave are not there.
    async fn missing_files(&self, machine: &LeasedMachine) -> Result<Option<String>> {
        let wanted = &self.case.expect.files;
        if wanted.is_empty() {
            return Ok(None);
        }
        let session = machine.session()?;
        let missing = file_stamps::missing(session, wanted, &self.base_command(), &self.context.cancel).await?;
        Ok(Some(missing)
            .filter(|missing| !missing.is_empty())
            .map(|missing| format!("there is no file {}", missing.join(", "))))
    }

    /// Returns what reads the results of the tests that the case runs itself.
    fn subtests(&self, dir: &Path, attempt: u32, only: &[Subtest]) -> Option<Subtests> {
        let Self { context, guest, suite, case, round, .. } = *self;
        let origin = OutputOrigin { guest: guest.id.clone(), suite: suite.id.clone(), case: Some(case.id.clone()) };
        let (events, redactor) = (context.events.clone(), context.redactor.clone());
        let excused = context.plan.quarantine.of_subtests(&suite.id, &case.id, &guest.key);
        let subtests =
            Subtests::new(&case.results, dir, (origin, case.id.clone()), (round, attempt), events, redactor, only);
        subtests.inspect(|subtests| subtests.excuse(excused))
    }

    /// Returns the command in the guest, which a program of this host does not have.
    pub(super) fn command(
        &self,
        machine: &LeasedMachine,
        (attempt, script): (u32, Option<&str>),
    ) -> Result<RemoteCommand> {
        let base = self.attempt_command(attempt);
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
            // Each of the steps is a script of its own, and each of what is found a case.
            CaseAction::Steps(_) | CaseAction::Discover(_) | CaseAction::Manual(_) | CaseAction::Host(_) => Ok(base),
        }
    }

    /// Runs what the case is to its end, through the restarts that it may ask for.
    pub(super) async fn watch(
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
                    return Reboots::unprepared(fault);
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
}
