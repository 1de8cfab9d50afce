//! Suites and their cases: what is run in a guest, and what is expected of it.
//!
//! Running them is `engine::cases`.

use super::{
    discover::Discovery,
    ids::{CaseId, GuestId, RoleId, SuiteId},
    pattern::Pattern,
    requirement::Requirement,
    subtest::Subtest,
    when::WhenExpr,
};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// A group of cases with a common setup.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// The name of the suite.
    pub id: SuiteId,
    /// The names or globs of the guests that the suite runs on, one after the other; nothing is said of one that has roles.
    pub guests: Vec<String>,
    /// The guests whose machines the suite needs together, by the parts that they have in it; empty = it needs one at a time.
    pub roles: BTreeMap<RoleId, GuestId>,
    /// How those machines reach each other.
    pub network: SuiteNetwork,
    /// What it needs in a guest before its setup.
    pub requires: Vec<Requirement>,
    /// Command before the first case; where it fails, no case is run.
    pub setup: Option<String>,
    /// The globs of files of the source on which the setup depends; unset: it is run in each run.
    pub setup_inputs: Option<Vec<String>>,
    /// How long the setup may take.
    pub setup_timeout: Duration,
    /// Command after the last case; its failure is a warning.
    pub teardown: Option<String>,
    /// How long the teardown may take.
    pub teardown_timeout: Duration,
    /// The shell of its commands; unset: the guest's.
    pub shell: Option<ScriptShell>,
    /// Environment of every command.
    pub env: BTreeMap<String, String>,
    /// The working directory in the guest; unset: where the source was put, else the login directory.
    pub dir: Option<String>,
    /// Who runs the commands.
    pub run_as: RunAs,
    /// The globs of files to fetch after the last case, relative to the working directory.
    pub artifacts: Vec<String>,
    /// Whether an artifact that does not come makes the suite fail.
    pub artifacts_required: bool,
    /// How long fetching the artifacts may take.
    pub artifacts_timeout: Duration,
    /// The most bytes of artifacts that are fetched.
    pub artifacts_size: u64,
    /// Which lines of the user's programs were run is collected, and how.
    pub coverage: CoverageKind,
    /// The kinds and categories of trouble that a console may show during its setup and teardown.
    pub trouble_ignore: Vec<String>,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// The most roles of a suite: each has an address in one network of 8 bits.
pub const MOST_ROLES: usize = 200;

/// How the machines of a suite with roles reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SuiteNetwork {
    /// At the addresses that they have anyway.
    #[default]
    Own,
    /// In a network that nobody else can reach.
    Private,
}

/// How it is found out which lines of the user's programs were run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CoverageKind {
    /// It is not.
    #[default]
    Off,
    /// By gcov: programs that were built with `--coverage`.
    Gcov,
}

impl CoverageKind {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["off", "gcov"];

    /// Reads a word; anything unknown is `off`.
    pub fn of_word(word: &str) -> Self {
        if word == "gcov" { CoverageKind::Gcov } else { CoverageKind::Off }
    }
}

/// One command with an expected outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The name within the suite.
    pub id: CaseId,
    /// The command or script that is run.
    pub action: CaseAction,
    /// The shell that runs it; unset: the suite's, else the guest's.
    pub shell: Option<ScriptShell>,
    /// The roles whose guests run it, all at once; empty in a suite without roles.
    pub on: Vec<RoleId>,
    /// Where it was written: `vmdeck.toml:12`.
    pub place: CasePlace,
    /// How long it may take; unset: the guest's own limit.
    pub timeout: Option<Duration>,
    /// What makes the case pass.
    pub expect: Expect,
    /// How many times a failed case is retried; a later pass makes it `flaky`.
    pub retries: u32,
    /// What a pass after a failure is.
    pub flaky: FlakyPolicy,
    /// Why the case is not run at all.
    pub skip: Option<String>,
    /// The kinds and categories of trouble that a console may show during it, those of its suite included.
    pub trouble_ignore: Vec<String>,
    /// What a restart of the guest during it says.
    pub reboot: RebootPolicy,
    /// Where the results of the tests that it runs itself are.
    pub results: ResultSources,
    /// Its tags, those of its suite included.
    pub tags: Vec<String>,
    /// Its own environment, besides the suite's.
    pub env: BTreeMap<String, String>,
    /// The working directory; a relative one is below the suite's. Unset: the suite's.
    pub dir: Option<String>,
    /// Who runs it; unset: as the suite says.
    pub run_as: Option<RunAs>,
    /// What is run around each attempt at it.
    pub around: CaseScripts,
    /// The cases of its suite, all before it, without whose success it is skipped.
    pub needs: Vec<CaseId>,
    /// The values of the axes of its matrix, as they were written, and of further keys of its row; empty = it has none.
    pub matrix: Vec<(String, String)>,
    /// The guests in which it is run; unset: all of its suite.
    pub when: Option<WhenExpr>,
    /// Whether it is run only where it is asked for, by its name or by one of its tags.
    pub explicit: bool,
    /// Whether it is run in a machine in which nothing has been run.
    pub fresh: bool,
    /// When the case behind it begins, where it goes on to the end of its suite beside those behind it.
    pub background: Option<Readiness>,
    /// Whether no other case of the run is run meanwhile.
    pub exclusive: bool,
    /// The globs of files to fetch after each attempt, relative to its working directory.
    pub artifacts: Vec<String>,
}

/// What shows that a case that goes on is ready for the one behind it.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    /// Nothing does: it begins at once.
    Started,
    /// A line of its output, on either stream.
    Line(Pattern),
    /// A port on which something in its guest listens (TCP).
    Port(u16),
}

impl Case {
    /// Returns the folder in which the case runs, where everything else of its suite runs in `around`.
    pub fn folder(&self, around: Option<&str>) -> Option<String> {
        match (&self.dir, around) {
            (Some(own), Some(around)) if !is_absolute(own) => Some(format!("{around}/{own}")),
            (Some(own), _) => Some(own.clone()),
            (None, around) => around.map(str::to_owned),
        }
    }

    /// Returns whether the guest may restart during the case.
    pub fn may_restart(&self) -> bool {
        let restarts = matches!(&self.action, CaseAction::Steps(steps) if steps.contains(&CaseStep::Reboot));
        restarts || self.reboot != RebootPolicy::Forbidden
    }

    /// Returns whether the case is run in the guest of this role; `None` = the only guest of a suite without roles.
    pub fn runs_on(&self, role: Option<&RoleId>) -> bool {
        role.is_none_or(|role| self.on.contains(role))
    }
}

/// Where the results of the tests that a case runs itself are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultSources {
    /// The formats that its standard output may have, by the words of the config; `auto` = any, or none.
    pub streams: Vec<String>,
    /// The globs of files in the guest, relative to the working directory.
    pub files: Vec<String>,
    /// Whether it is well that no test was run.
    pub allow_empty: bool,
    /// The command that runs only some of the tests again, as a template of `vmdeck-results`.
    pub rerun: Option<String>,
    /// The tests that are run at the first attempt, where it is not the whole case: those that failed in an earlier run.
    pub only: Vec<Subtest>,
}

impl ResultSources {
    /// The word for any format, or none.
    pub const AUTO: &'static str = "auto";

    /// Returns whether there are any.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.files.is_empty()
    }
}

/// What a case is that failed and passed when it was tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlakyPolicy {
    /// It is flaky, which is not red.
    #[default]
    Report,
    /// It has failed.
    Fail,
    /// It is tried again only where it is in quarantine, and then is flaky.
    Quarantine,
}

impl FlakyPolicy {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["report", "fail", "quarantine"];

    /// Reads a word; anything unknown is `report`.
    pub fn of_word(word: &str) -> Self {
        match word {
            "fail" => FlakyPolicy::Fail,
            "quarantine" => FlakyPolicy::Quarantine,
            _ => FlakyPolicy::Report,
        }
    }
}

/// What is run around each attempt at a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaseScripts {
    /// Command before it; where it fails, the case has failed and is left out.
    pub before: Option<String>,
    /// Command after it, whatever it came to; where it fails, a case that passed has failed, and the machine is not used again.
    pub after: Option<String>,
    /// Command after it where it failed: what it writes is for the record, and changes nothing.
    pub on_failure: Option<String>,
}

/// What a restart of the guest during a case says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RebootPolicy {
    /// The system crashed.
    #[default]
    Forbidden,
    /// The case is begun again in the guest that has come up, with the number of restarts so far.
    Allowed,
    /// The same, and a case without a restart has failed.
    Expected,
}

impl RebootPolicy {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["forbidden", "allowed", "expected"];

    /// Reads a word; anything unknown is `forbidden`, which hides nothing.
    pub fn of_word(word: &str) -> Self {
        match word {
            "allowed" => RebootPolicy::Allowed,
            "expected" => RebootPolicy::Expected,
            _ => RebootPolicy::Forbidden,
        }
    }
}

/// Where a case was written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CasePlace {
    /// The file, as it was given; empty where there is none.
    pub file: String,
    /// The line, from 1; 0 where there is none.
    pub line: usize,
}

/// What a case runs.
#[derive(Clone, Debug, PartialEq)]
pub enum CaseAction {
    /// A text for the shell.
    Run(String),
    /// A file of this host that is sent and run.
    Script(PathBuf),
    /// A question that a person answers, in the cockpit.
    Manual(String),
    /// Other cases, which are found in the guest.
    Discover(Discovery),
    /// Commands and restarts of the guest, one after the other.
    Steps(Vec<CaseStep>),
    /// A program of this host that drives the guest.
    Host(HostProgram),
}

/// One step of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseStep {
    /// A text for the shell.
    Run(String),
    /// A restart of the guest.
    Reboot,
}

/// A program of this host that drives the guest by `ssh` and `scp`: on its search path they are stand-ins that use the session which
/// is open already.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostProgram {
    /// The program, looked up on the search path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its working directory.
    pub dir: PathBuf,
    /// Variables to set besides this host's own; `PORT` becomes the port at which the guest is reached.
    pub env: BTreeMap<String, String>,
    /// The variable that gets the password of the guest's login.
    pub password: Option<String>,
    /// A file of lines `NAME=value` to which `PORT` is added.
    pub record: Option<PathBuf>,
    /// Further lines for that file.
    pub lines: Vec<String>,
    /// A status of the last command in the guest that means "skipped", where the program itself fails.
    pub skip: Option<i32>,
    /// Whether the program has to shut the guest down.
    pub closes: bool,
    /// Whether the program has to make the guest begin again, as by a kexec; then its own end says nothing.
    pub restarts: bool,
}

/// What makes a case pass.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Expect {
    /// The exit code.
    pub exit: i32,
    /// An exit code that means "skipped" (automake's habit is 77).
    pub skip: Option<i32>,
    /// Patterns each of which a line of standard output must match as well.
    pub stdout: Vec<Pattern>,
    /// Patterns each of which a line of standard error must match as well.
    pub stderr: Vec<Pattern>,
    /// Patterns that no line of standard output may match.
    pub not_stdout: Vec<Pattern>,
    /// Patterns that no line of standard error may match.
    pub not_stderr: Vec<Pattern>,
    /// Whether nothing may be written to standard output.
    pub stdout_empty: bool,
    /// Whether nothing may be written to standard error.
    pub stderr_empty: bool,
    /// Files that must be there afterwards, relative to the working directory.
    pub files: Vec<String>,
}

/// The shell that runs a text in the guest, and what it does about a line that fails.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ScriptShell {
    /// `sh`; a text of more than one line stops at the first that fails (`set -e`, and `pipefail` where the shell has it).
    #[default]
    Sh,
    /// `bash -e -o pipefail`.
    Bash,
    /// `sh` that always stops at the first failure, also at a variable that is not set (`set -eu`, and `pipefail`).
    Strict,
    /// `sh` that stops at nothing: the last line's status counts.
    Plain,
    /// PowerShell, which is a Windows guest's own shell; elsewhere its program `pwsh`.
    PowerShell,
    /// Any other program; the text is its last argument.
    Command(Vec<String>),
}

/// Who runs a command in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum RunAs {
    /// The user who logged in.
    #[default]
    User,
    /// Root, by `sudo`; in Windows an administrator.
    Root,
}

impl RunAs {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["user", "root", "administrator"];

    /// Reads a word; anything but `user` means root's rights.
    pub fn of_word(word: &str) -> Self {
        if word == "user" { RunAs::User } else { RunAs::Root }
    }
}

/// Returns whether a path of a guest is one from its root, of Unix or of Windows.
fn is_absolute(path: &str) -> bool {
    path.starts_with(['/', '\\', '~']) || path.as_bytes().get(1) == Some(&b':')
}

/// Returns whether a script has more than one line, comments included: a comment that comes or goes must change nothing.
pub fn has_several_lines(script: &str) -> bool {
    script.trim().contains('\n')
}

/// Returns whether a script has nothing but comments: it would always pass.
pub fn does_nothing(script: &str) -> bool {
    script.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_do_something() {
        for (script, several) in
            [("a", false), ("a\n", false), ("# why\na\n\n", true), ("a\nb", true), ("\n a\n b\n", true), ("", false)]
        {
            assert_eq!(has_several_lines(script), several, "{script:?}");
        }
        assert!(does_nothing("") && does_nothing("# a\n\n # b\n") && !does_nothing("# a\ntrue"));
    }
}
