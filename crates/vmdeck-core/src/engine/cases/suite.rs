//! What surrounds the cases of a suite: its setup, its teardown, and the files that it leaves behind.

use super::{
    case_artifacts,
    command_log::{CommandLog, OutputOrigin},
    coverage::{self, CoverageRun},
    script_failure::ScriptFailure,
    setup_inputs::SetupInputs,
    supervise::{CaseWork, End, Watched},
};
use crate::{
    command::{CommandExit, RemoteCommand},
    engine::{
        context::RunContext,
        machine::{LeasedMachine, diagnose, save_memory},
    },
};
use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    event::{CaseCause, EventKind},
    evidence::telling_line,
    guest::{Guest, SurvivorPolicy},
    ids::CaseId,
    outcome::Verdict,
    quantity::show_duration,
    suite::{Expect, Suite},
};

/// A suite in one guest.
#[derive(Clone, Copy)]
pub(super) struct SuiteRun<'a> {
    pub(super) context: &'a RunContext,
    pub(super) guest: &'a Guest,
    pub(super) suite: &'a Suite,
    /// What its commands are told of the guests that are up together.
    pub(super) told: &'a BTreeMap<String, String>,
}

/// Most bytes of a list of cases.
const MOST_LISTED: usize = 8 << 20;

/// The scripts around the cases.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SuiteScript {
    /// Brings in what the suite requires.
    Install,
    Setup,
    Teardown,
    BeforeEach,
    AfterEach,
    OnFailure,
    /// Lists the cases that a case stands for.
    Discover,
}

/// A script on its way: where it is run, and where its output goes.
pub(super) struct ScriptRun<'a> {
    pub(super) which: SuiteScript,
    pub(super) command: RemoteCommand,
    /// Its folder in the record.
    pub(super) dir: PathBuf,
    pub(super) limit: Duration,
    pub(super) case: Option<&'a CaseId>,
    pub(super) cancel: &'a CancellationToken,
}

impl fmt::Display for SuiteScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SuiteScript::Install => "install",
            SuiteScript::Setup => "setup",
            SuiteScript::Teardown => "teardown",
            SuiteScript::BeforeEach => "before_each",
            SuiteScript::AfterEach => "after_each",
            SuiteScript::OnFailure => "on_failure",
            SuiteScript::Discover => "discover",
        })
    }
}

impl SuiteRun<'_> {
    /// Returns what every command of the suite has in common.
    pub(super) fn base_command(&self) -> RemoteCommand {
        let Self { context, guest, suite, told } = *self;
        let mut command = RemoteCommand {
            env: suite.env.clone(),
            dir: suite.dir.clone().or_else(|| guest.source.as_ref().map(|s| s.to.clone())),
            run_as: suite.run_as,
            shell: suite.shell.as_ref().unwrap_or(&guest.shell).clone(),
            ..RemoteCommand::new("")
        };
        coverage::tell(suite, &mut command);
        for (name, value) in [
            ("VMDECK", "1"),
            ("VMDECK_RUN", context.plan.run.as_str()),
            ("VMDECK_GUEST", guest.id.as_str()),
            ("VMDECK_SUITE", suite.id.as_str()),
            // These are there in each command, so that a script which takes no unset variable can ask.
            ("VMDECK_CASE", ""),
            ("VMDECK_ATTEMPT", ""),
            ("VMDECK_ROLE", ""),
            ("VMDECK_SOURCE", guest.source.as_ref().map_or("", |source| source.to.as_str())),
        ] {
            command.env.insert(name.to_owned(), value.to_owned());
        }
        command.env.extend(told.clone());
        command
    }

    /// Runs the setup; where it fails, nothing can be said about the cases.
    pub(super) async fn set_up(&self, machine: &LeasedMachine) -> Result<(), ScriptFailure> {
        if let Err(fault) = self.coverage().begin(machine).await {
            self.warn(&fault.to_string());
        }
        let Some(text) = &self.suite.setup else { return Ok(()) };
        let inputs = match SetupInputs::of(self.context, self.guest, self.suite, machine).await {
            Ok(inputs) => inputs,
            Err(fault) => {
                self.warn(&fault.to_string());
                None
            }
        };
        if machine.kept().is_some() && inputs.as_ref().is_some_and(SetupInputs::are_unchanged) {
            let text = format!("suite `{}`: the setup is not run again: nothing has changed for it", self.suite.id);
            self.context.events.send(EventKind::Progress { guest: Some(self.guest.id.clone()), text });
            return Ok(());
        }
        if let Some(inputs) = &inputs {
            inputs.forget();
        }
        self.script(machine, SuiteScript::Setup, text).await?;
        if let Some(inputs) = &inputs {
            inputs.remember();
        }
        Ok(())
    }

    /// Runs the teardown and fetches the artifacts; a failure is a warning. Returns why the artifacts are not complete.
    pub(super) async fn finish(&self, machine: &LeasedMachine) -> Option<String> {
        if let Some(text) = &self.suite.teardown
            && let Err(failure) = self.script(machine, SuiteScript::Teardown, text).await
        {
            self.warn(&failure.reason);
        }
        // What daemons write when they end is there only now.
        if let Err(fault) = self.coverage().end(machine).await {
            self.warn(&fault.with_remedy());
        }
        if self.suite.artifacts.is_empty() {
            return None;
        }
        let missing = self.fetch_artifacts(machine).await?;
        self.warn(&missing);
        Some(missing)
    }

    fn coverage(&self) -> CoverageRun<'_> {
        let Self { context, guest, suite, .. } = *self;
        CoverageRun { context, guest, suite, base: self.base_command() }
    }

    /// Reports that artifacts which had to come did not: as a case of its own, since all others are judged.
    pub(super) fn report_missing_artifacts(&self, why: &str, round: u32) {
        let taken = |name: &str| self.suite.cases.iter().any(|case| case.id.as_str() == name);
        let mut names = std::iter::once("artifacts".to_owned()).chain((2..).map(|n| format!("artifacts-{n}")));
        let Some(case) = names.find(|name| !taken(name)).and_then(|name| CaseId::new(&name).ok()) else { return };
        let name = (self.guest.id.clone(), self.suite.id.clone(), case, round);
        let why = self.context.redactor.text(why);
        self.context.events.send(EventKind::case_not_run(name, Verdict::Failed, why, CaseCause::Artifacts));
    }

    pub(super) fn warn(&self, text: &str) {
        let text = format!("suite `{}`: {}", self.suite.id, self.context.redactor.text(text));
        self.context.events.warn(Some(&self.guest.id), text, None);
    }

    /// Fetches the artifacts; returns what did not come, and why.
    async fn fetch_artifacts(&self, machine: &LeasedMachine) -> Option<String> {
        let Self { context, guest, suite, .. } = *self;
        let (of, dir) = ((context, guest, suite, None), self.artifacts_dir());
        let (globs, base) = (&suite.artifacts, self.base_command());
        match case_artifacts::fetch(of, machine, globs, base, (&dir, &context.cancel)).await {
            Ok(fetched) => fetched.missing(),
            Err(fault) => Some(fault.to_string()),
        }
    }

    /// Returns a folder of its own for every round and every machine.
    fn artifacts_dir(&self) -> PathBuf {
        let base = self.context.plan.dir.join("artifacts").join(self.guest.id.as_str());
        let numbered = (2..).map(|n| format!("{}-{n}", self.suite.id));
        let mut names = std::iter::once(self.suite.id.to_string()).chain(numbered).map(|name| base.join(name));
        names.find(|path| !path.exists()).unwrap_or(base)
    }

    /// Runs one of the scripts to its end.
    pub(super) async fn script(
        &self,
        machine: &LeasedMachine,
        which: SuiteScript,
        text: &str,
    ) -> Result<(), ScriptFailure> {
        let limit = if which == SuiteScript::Teardown { self.suite.teardown_timeout } else { self.suite.setup_timeout };
        let command = RemoteCommand { script: text.to_owned(), ..self.base_command() };
        // No case can have this name.
        let dir = self.context.guest_dir(self.guest).join(self.suite.id.as_str()).join(format!("+{which}"));
        let run = ScriptRun { which, command, dir, limit, case: None, cancel: &self.context.cancel };
        self.run_script(machine, run).await.map(drop)
    }

    /// Runs a script of the suite, or around one of its cases, to its end.
    /// Returns what it wrote to standard output, if it is a list.
    pub(super) async fn run_script(
        &self,
        machine: &LeasedMachine,
        run: ScriptRun<'_>,
    ) -> Result<Vec<u8>, ScriptFailure> {
        let Self { context, guest, suite, .. } = *self;
        let ScriptRun { which, command, dir, limit, case, cancel } = run;
        let origin = OutputOrigin { guest: guest.id.clone(), suite: suite.id.clone(), case: case.cloned() };
        let mut log = CommandLog::open(
            &dir,
            origin,
            context.events.clone(),
            &context.redactor,
            &Expect::default(),
            context.plan.host.log_size,
        );
        if which == SuiteScript::Discover {
            log.keep_stdout(MOST_LISTED);
        }
        let work = CaseWork::Guest(&command);
        let watched =
            Watched { context, guest, machine, work, limit, trouble_ignore: &suite.trouble_ignore, peers: &[] };
        let end = watched.run(&mut log, cancel).await;
        let listed = log.kept_stdout();
        let output = log.finish();
        let (verdict, reason) = match end {
            End::Exit(CommandExit::Code(0)) => match output.lost.clone() {
                None => match listed {
                    Ok(listed) => return Ok(listed),
                    Err(why) => (Verdict::Failed, why),
                },
                // As with a case: what is not recorded proves nothing.
                Some(why) => (Verdict::Infra, why),
            },
            End::Exit(exit) => {
                let last = output.stderr_tail.lines().last().or(output.stdout_tail.lines().last());
                let telling = telling_line(&output.stdout_tail, &output.stderr_tail);
                let last = telling.or(last).unwrap_or_default();
                let last = if last.is_empty() { String::new() } else { format!(": {last}") };
                let seen = dir.strip_prefix(&context.plan.dir).unwrap_or(&dir).display();
                (Verdict::Failed, format!("{exit}{last} (see {seen})"))
            }
            End::Timeout(still_runs) => {
                if still_runs.is_some() && guest.survivors == SurvivorPolicy::Replace {
                    machine.give_up();
                }
                let rest = still_runs.map(|why| format!("; {why}")).unwrap_or_default();
                (Verdict::Failed, format!("it took longer than {}{rest}", show_duration(limit)))
            }
            End::Cancelled => (Verdict::Cancelled, context.stop_reason().to_owned()),
            End::Refused(fault) => (Verdict::Failed, fault.with_remedy()),
            End::Complaint { fault, spoils } => {
                if spoils {
                    machine.give_up();
                }
                (Verdict::Failed, fault.to_string())
            }
            End::Wrong(fault) => {
                machine.give_up();
                (Verdict::Failed, fault.to_string())
            }
            End::Crashed(fault) => {
                machine.give_up();
                save_memory(context, guest, machine).await;
                diagnose(context, guest, &machine.controller, &fault).await;
                (guest.crash.verdict(), fault.to_string())
            }
            End::PeerLost(fault) => (Verdict::Infra, fault.to_string()),
            End::Lost(fault) => {
                machine.give_up();
                diagnose(context, guest, &machine.controller, &fault).await;
                (Verdict::Infra, fault.to_string())
            }
        };
        let reason = context.redactor.text(&format!("{which} failed: {reason}"));
        Err(ScriptFailure { verdict, reason, output })
    }
}
