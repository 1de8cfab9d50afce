//! Verdicts, their tally, and why a run was cancelled.
//!
//! A verdict is never read from free text: it comes from an exit status, or there is none and it is `infra`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As expected, at the first try.
    Passed,
    /// The command ran to its end and not as expected, outlived its time, or made the system complain on its console.
    Failed,
    /// No statement about the code: the guest, or the way to it, failed.
    Infra,
    /// Not run, by the config's or the case's own word.
    Skipped,
    /// Not run, or ended early, because the run was cancelled.
    Cancelled,
    /// Failed first and passed later: not red, and never silently green.
    Flaky,
}

impl Verdict {
    /// Every verdict, in the order in which summaries list them.
    pub const ALL: [Verdict; 6] =
        [Verdict::Passed, Verdict::Flaky, Verdict::Failed, Verdict::Infra, Verdict::Skipped, Verdict::Cancelled];

    /// Returns whether it says that something is wrong.
    pub fn is_failure(self) -> bool {
        matches!(self, Verdict::Failed | Verdict::Infra)
    }

    /// Returns the word used in events and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Infra => "infra",
            Verdict::Skipped => "skipped",
            Verdict::Cancelled => "cancelled",
            Verdict::Flaky => "flaky",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many cases ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// See [`Verdict::Passed`].
    pub passed: u32,
    /// See [`Verdict::Failed`].
    pub failed: u32,
    /// See [`Verdict::Infra`].
    pub infra: u32,
    /// See [`Verdict::Skipped`].
    pub skipped: u32,
    /// See [`Verdict::Cancelled`].
    pub cancelled: u32,
    /// See [`Verdict::Flaky`].
    pub flaky: u32,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, verdict: Verdict) {
        *self.slot(verdict) += 1;
    }

    /// Returns how many ended this way.
    pub fn of(&self, verdict: Verdict) -> u32 {
        let mut copy = *self;
        *copy.slot(verdict)
    }

    /// Returns all that ended.
    pub fn total(&self) -> u32 {
        Verdict::ALL.iter().map(|v| self.of(*v)).sum()
    }

    fn slot(&mut self, verdict: Verdict) -> &mut u32 {
        match verdict {
            Verdict::Passed => &mut self.passed,
            Verdict::Failed => &mut self.failed,
            Verdict::Infra => &mut self.infra,
            Verdict::Skipped => &mut self.skipped,
            Verdict::Cancelled => &mut self.cancelled,
            Verdict::Flaky => &mut self.flaky,
        }
    }
}

/// A signal that asks a process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// A polite request, as CI systems send.
    Terminate,
    /// The terminal is gone.
    Hangup,
    /// Ctrl-\.
    Quit,
}

/// Why a run was cancelled, weakest first; a later reason is reported only if it is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// `--fail-fast` and a case failed.
    FailFast,
    /// The host lock was lost.
    LockLost,
    /// A report could not be written.
    ReportFailed,
    /// A person asked for it in the cockpit.
    User,
    /// SIGHUP.
    Hangup,
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// A further signal.
    Again,
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FailFast => "a case failed and --fail-fast is set",
            Self::LockLost => "the host lock was lost",
            Self::ReportFailed => "a report could not be written",
            Self::User => "a person asked for it",
            Self::Hangup => "the terminal was closed (SIGHUP)",
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "Ctrl-C (SIGINT)",
            Self::Again => "a second signal",
        })
    }
}
