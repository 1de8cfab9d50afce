//! One case of one guest in one of the rounds, and what all of its attempts have in common.

use super::{
    case_folders::{CaseFolders, SuiteFolders},
    command_log::RecordedOutput,
    peers::PeerWatch,
    suite::SuiteRun,
};
use crate::{
    command::RemoteCommand,
    engine::{context::RunContext, machine::LeasedMachine},
};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use vmdeck_model::{
    event::Attempt,
    guest::Guest,
    outcome::Verdict,
    subtest::{Subtest, SubtestTally},
    suite::{Case, Suite},
};

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
    /// The folders of the suite's cases in its machine.
    pub(super) of_suite: Option<&'a SuiteFolders>,
    /// Its own folders in the guest, while an attempt at it is made.
    pub(super) folders: Option<&'a CaseFolders>,
}

/// Which attempt is to be made.
#[derive(Clone, Copy)]
pub(super) struct AskedAttempt<'a> {
    /// The number of it, from 1.
    pub(super) number: u32,
    pub(super) peers: &'a [PeerWatch],
    /// The script that runs only these of the case's own tests; `None` = the whole case.
    pub(super) partial: Option<(&'a str, &'a [Subtest])>,
}

/// What of a failure may be excused, where somebody has said that it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excuse {
    /// Nothing: it was not the code that is tested, or not all that had to be told of it was.
    Nothing,
    /// The case as a whole.
    Case,
    /// Also tests of its own: besides them nothing is wrong, neither with its output and files, nor with how it ended.
    Tests,
}

/// How one attempt at a case ended.
pub(super) struct Attempted {
    pub(super) attempt: Attempt,
    /// The machine cannot be used any more.
    pub(super) machine_lost: bool,
    /// The counts of the tests that it ran itself, where it says where their results are.
    pub(super) subtests: Option<SubtestTally>,
    /// The first of them that failed.
    pub(super) failed: Vec<Subtest>,
    /// Nothing but those speaks against it.
    pub(super) by_subtests: bool,
    /// What of its failure may be excused.
    pub(super) excuse: Excuse,
}

impl Attempted {
    /// Returns an attempt whose command was never run.
    pub(super) fn unrun(attempt: Attempt, machine: &LeasedMachine) -> Self {
        let machine_lost = machine.is_lost();
        Self { attempt, machine_lost, subtests: None, failed: Vec::new(), by_subtests: false, excuse: Excuse::Nothing }
    }
}

impl CaseRun<'_> {
    /// Returns what every command of the case has in common.
    pub(super) fn base_command(&self) -> RemoteCommand {
        let Self { context, guest, suite, case, told, .. } = *self;
        let base = SuiteRun { context, guest, suite, told }.base_command();
        let dir = case.folder(base.dir.as_deref());
        let mut env = base.env;
        env.extend(case.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        let mut command = RemoteCommand { env, dir, run_as: case.run_as.unwrap_or(base.run_as), ..base };
        if let Some(folders) = self.folders {
            folders.tell(&mut command);
        }
        command
    }

    /// Returns what every command of an attempt has in common.
    pub(super) fn attempt_command(&self, attempt: u32) -> RemoteCommand {
        let mut command = self.base_command();
        command.env.insert("VMDECK_CASE".to_owned(), self.case.id.to_string());
        command.env.insert("VMDECK_ATTEMPT".to_owned(), attempt.to_string());
        command.env.insert("VMDECK_TIMEOUT_S".to_owned(), self.limit().as_millis().div_ceil(1000).to_string());
        command
    }

    /// Returns how long it may take.
    pub(super) fn limit(&self) -> Duration {
        self.case.timeout.unwrap_or(self.guest.case_timeout)
    }

    /// Returns the folder of an attempt in the record.
    pub(super) fn dir(&self, attempt: u32) -> PathBuf {
        let mut dir = self.context.guest_dir(self.guest).join(self.suite.id.as_str()).join(self.case.id.folder());
        if self.round > 1 {
            dir.push(format!("round-{}", self.round));
        }
        if attempt > 1 {
            dir.push(format!("attempt-{attempt}"));
        }
        dir
    }
}

/// Returns an attempt that never came to its command.
pub(super) fn unrun(verdict: Verdict, message: &str, output: RecordedOutput) -> Attempt {
    let RecordedOutput { stdout_tail, stderr_tail, .. } = output;
    Attempt { verdict, exit: None, took_ms: 0, message: message.to_owned(), stdout_tail, stderr_tail }
}
