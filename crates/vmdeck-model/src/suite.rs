//! Suites and their cases: what is run in a guest, and what is expected of it.
//!
//! Running them is `engine::cases`.

use super::{
    ids::{CaseId, SuiteId},
    pattern::Pattern,
};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// A group of cases with a common setup.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// The name.
    pub id: SuiteId,
    /// Names or globs of the guests that it runs on.
    pub guests: Vec<String>,
    /// Command before the first case; its failure makes every case `infra`.
    pub setup: Option<String>,
    /// Command after the last case; its failure is a warning.
    pub teardown: Option<String>,
    /// Environment of every command.
    pub env: BTreeMap<String, String>,
    /// Working directory in the guest; unset: the login directory, or where the source was put.
    pub dir: Option<String>,
    /// Who runs the commands.
    pub run_as: RunAs,
    /// Globs of files to fetch after the last case, relative to the working directory.
    pub artifacts: Vec<String>,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// One command with an expected outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The name within the suite.
    pub id: CaseId,
    /// What is run.
    pub action: CaseAction,
    /// How long it may take; unset: the guest's own limit.
    pub timeout: Option<Duration>,
    /// What makes it pass.
    pub expect: Expect,
    /// How often a failure is tried again; a later pass makes it `flaky`.
    pub retries: u32,
    /// Why it is not run at all.
    pub skip: Option<String>,
}

/// What a case runs.
#[derive(Clone, Debug, PartialEq)]
pub enum CaseAction {
    /// A command line: `sh -c`, on Windows PowerShell.
    Run(String),
    /// A file of this host that is sent and run.
    Script(PathBuf),
}

/// What makes a case pass.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Expect {
    /// The exit code.
    pub exit: i32,
    /// An exit code that means "skipped" (automake's habit is 77).
    pub skip: Option<i32>,
    /// A pattern that a line of stdout must match as well.
    pub stdout: Option<Pattern>,
}

/// Who runs a command in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RunAs {
    /// The user who logged in.
    #[default]
    User,
    /// Root, by `sudo`.
    Root,
}
