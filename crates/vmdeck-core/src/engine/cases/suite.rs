//! What surrounds the cases of a suite: its setup, its teardown, and the files that it leaves behind.

use super::{
    case::base_command,
    command_log::{CommandLog, OutputOrigin},
};
use crate::{
    command::{CommandExit, RemoteCommand},
    engine::{
        context::RunContext,
        machine::{LeasedMachine, recv_once},
    },
    host::clock,
    transport::artifacts,
};
use std::{fmt, path::PathBuf, time::Duration};
use vmdeck_model::{
    error::{Blame, Fault},
    guest::Guest,
    suite::Suite,
};

/// How long a setup, a teardown or a fetch may take.
const LIMIT: Duration = Duration::from_mins(30);

/// A suite in one guest.
#[derive(Clone, Copy)]
pub(super) struct SuiteRun<'a> {
    pub(super) context: &'a RunContext,
    pub(super) guest: &'a Guest,
    pub(super) suite: &'a Suite,
}

/// The two scripts around the cases.
#[derive(Clone, Copy)]
enum SuiteScript {
    Setup,
    Teardown,
}

impl fmt::Display for SuiteScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SuiteScript::Setup => "setup",
            SuiteScript::Teardown => "teardown",
        })
    }
}

impl SuiteRun<'_> {
    /// Runs the setup; the error is the reason why nothing can be said about the cases.
    pub(super) async fn set_up(&self, machine: &LeasedMachine) -> Result<(), String> {
        match &self.suite.setup {
            Some(text) => self.script(machine, SuiteScript::Setup, text).await,
            None => Ok(()),
        }
    }

    /// Runs the teardown and fetches the artifacts; a failure is a warning.
    pub(super) async fn finish(&self, machine: &LeasedMachine) {
        if let Some(text) = &self.suite.teardown
            && let Err(why) = self.script(machine, SuiteScript::Teardown, text).await
        {
            self.warn(&why);
        }
        if !self.suite.artifacts.is_empty() {
            self.fetch_artifacts(machine).await;
        }
    }

    fn warn(&self, text: &str) {
        let text = format!("suite `{}`: {}", self.suite.id, self.context.redactor.text(text));
        self.context.events.warn(Some(&self.guest.id), text, None);
    }

    async fn fetch_artifacts(&self, machine: &LeasedMachine) {
        let Some(session) = machine.controller.session() else {
            return self.warn("cannot fetch artifacts: there is no session");
        };
        let (files, base, to) = (session.files(), base_command(self.guest, self.suite), self.artifacts_dir());
        let fetched = artifacts::fetch(files.as_ref(), &self.suite.artifacts, &base, &to, &self.context.cancel);
        match clock::within(LIMIT, fetched).await {
            Some(Ok((_, Some(why)))) => self.warn(&format!("not every artifact came: {why}")),
            Some(Ok((0, None))) => self.warn("no file matches its artifacts"),
            Some(Ok(_)) => {}
            Some(Err(fault)) => self.warn(&fault.to_string()),
            None => self.warn("fetching artifacts took too long"),
        }
    }

    /// Returns a folder of its own for every round and every machine.
    fn artifacts_dir(&self) -> PathBuf {
        let base = self.context.plan.dir.join("artifacts").join(self.guest.id.as_str());
        let numbered = (2..).map(|n| format!("{}-{n}", self.suite.id));
        let mut names = std::iter::once(self.suite.id.to_string()).chain(numbered).map(|name| base.join(name));
        names.find(|path| !path.exists()).unwrap_or(base)
    }

    /// Runs a setup or teardown; the error is a sentence.
    async fn script(&self, machine: &LeasedMachine, which: SuiteScript, text: &str) -> Result<(), String> {
        let Self { context, guest, suite } = *self;
        let command = RemoteCommand { script: text.to_owned(), ..base_command(guest, suite) };
        let origin = OutputOrigin { guest: guest.id.clone(), suite: suite.id.clone(), case: None };
        let dir = context.guest_dir(guest).join(suite.id.as_str()).join(format!(".{which}"));
        let mut log = CommandLog::open(&dir, origin, context.events.clone(), &context.redactor, None);
        let token = context.cancel.child_token();
        let (mut exit, mut error) = (machine.exit.clone(), machine.console_error.clone());
        let ran = tokio::select! {
            biased;
            ran = clock::within(LIMIT, machine.controller.run(&command, &mut log, &token)) => ran,
            Some(found) = recv_once(&mut error) => Some(Err(found.to_fault())),
            Some(how) = recv_once(&mut exit) => Some(Err(Fault::infra("cannot finish the command").because(how))),
        };
        if matches!(&ran, Some(Err(fault)) if fault.blame() == Blame::Infra) {
            machine.give_up();
        }
        let (stdout, stderr, _) = log.finish();
        let last = stderr.lines().last().or(stdout.lines().last()).unwrap_or_default().to_owned();
        match ran {
            Some(Ok(CommandExit::Code(0))) => Ok(()),
            Some(Ok(exit)) if last.is_empty() => Err(format!("{which} failed: {exit}")),
            Some(Ok(exit)) => Err(format!("{which} failed: {exit}: {last}")),
            Some(Err(fault)) => Err(format!("{which} failed: {}", context.redactor.text(&fault.to_string()))),
            None => Err(format!("{which} took longer than 30 min")),
        }
    }
}
