//! Verdicts, their tally, and why a run was cancelled.
//!
//! A verdict is never read from free text: it comes from an exit status, or there is none and it is `infra`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The case ended as expected at the first attempt.
    Passed,
    /// The command did not end as expected, took too long, or made the console show an error pattern.
    Failed,
    /// Nothing can be said about the code: the guest, or the way to it, failed.
    Infra,
    /// The case was not run, by the config or by its own exit status.
    Skipped,
    /// The case was not run, or was ended early, because the run or the guest was stopped.
    Cancelled,
    /// The case failed first and passed at a later attempt: not red, and never silently green.
    Flaky,
}

impl Verdict {
    /// Every verdict, in the order in which summaries list them.
    pub const ALL: [Verdict; 6] =
        [Verdict::Passed, Verdict::Flaky, Verdict::Failed, Verdict::Infra, Verdict::Skipped, Verdict::Cancelled];

    /// Returns whether the verdict says that something is wrong.
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

/// How many cases have each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many are [`Verdict::Passed`].
    pub passed: u32,
    /// How many are [`Verdict::Failed`].
    pub failed: u32,
    /// How many are [`Verdict::Infra`].
    pub infra: u32,
    /// How many are [`Verdict::Skipped`].
    pub skipped: u32,
    /// How many are [`Verdict::Cancelled`].
    pub cancelled: u32,
    /// How many are [`Verdict::Flaky`].
    pub flaky: u32,
    /// How many of those that failed are in quarantine.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub quarantined: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Tally {
    /// Counts one more case.
    pub fn add(&mut self, verdict: Verdict) {
        *self.slot(verdict) += 1;
    }

    /// Counts one more case that failed and is in quarantine.
    pub fn add_quarantined(&mut self) {
        self.failed += 1;
        self.quarantined += 1;
    }

    /// Returns how many cases failed and make the run red.
    pub fn red(&self) -> u32 {
        self.failed.saturating_sub(self.quarantined) + self.infra
    }

    /// Returns how many cases have this verdict.
    pub fn of(&self, verdict: Verdict) -> u32 {
        let mut copy = *self;
        *copy.slot(verdict)
    }

    /// Returns the counts that are not zero as text, each with its verdict: `3 failed (1 in quarantine)`.
    pub fn counts(&self) -> impl Iterator<Item = (Verdict, String)> {
        let tally = *self;
        Verdict::ALL.into_iter().filter(move |verdict| tally.of(*verdict) > 0).map(move |verdict| {
            let excused = match tally.quarantined {
                count @ 1.. if verdict == Verdict::Failed => format!(" ({count} in quarantine)"),
                _ => String::new(),
            };
            (verdict, format!("{} {verdict}{excused}", tally.of(verdict)))
        })
    }

    /// Returns how many cases have ended.
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

impl fmt::Display for Tally {
    /// Writes the counts that are not zero: `12 passed, 3 failed (1 in quarantine)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total() == 0 {
            return f.write_str("no tests run");
        }
        let counts: Vec<String> = self.counts().map(|(_, count)| count).collect();
        f.write_str(&counts.join(", "))
    }
}

/// A signal that asks a process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C: SIGINT.
    Interrupt,
    /// A polite request, as CI systems send it: SIGTERM.
    Terminate,
    /// The terminal is gone: SIGHUP.
    Hangup,
    /// Ctrl-\: SIGQUIT.
    Quit,
}

/// Why a run was cancelled, weakest first; a later reason is reported only if it is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// A case failed and `--fail-fast` is set.
    FailFast,
    /// A console showed trouble that ends the run.
    Trouble,
    /// The host lock was lost.
    LockLost,
    /// A report could not be written.
    ReportFailed,
    /// The code that it tests has changed meanwhile.
    Stale,
    /// A person asked for it in the cockpit.
    User,
    /// SIGHUP arrived.
    Hangup,
    /// SIGTERM arrived.
    Terminate,
    /// SIGQUIT arrived.
    Quit,
    /// SIGINT arrived.
    Interrupt,
    /// A further signal arrived.
    Again,
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FailFast => "a case failed, and the first failure ends the run",
            Self::Trouble => "a console showed trouble that ends the run",
            Self::LockLost => "the host lock was lost",
            Self::ReportFailed => "a report could not be written",
            Self::Stale => "the code has changed",
            Self::User => "requested by the user",
            Self::Hangup => "the terminal was closed (SIGHUP)",
            Self::Terminate => "SIGTERM",
            Self::Quit => "SIGQUIT",
            Self::Interrupt => "Ctrl-C (SIGINT)",
            Self::Again => "a second signal",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_is_counted_in_its_own_place_and_only_two_are_failures() {
        for (at, verdict) in Verdict::ALL.into_iter().enumerate() {
            let mut tally = Tally::default();
            (0..=at).for_each(|_| tally.add(verdict));
            let count = u32::try_from(at).expect("few") + 1;
            for other in Verdict::ALL {
                assert_eq!(tally.of(other), if other == verdict { count } else { 0 }, "{verdict} {other}");
            }
            assert_eq!(tally.total(), count);
            assert_eq!(verdict.is_failure(), matches!(verdict.as_str(), "failed" | "infra"));
            assert_eq!(format!("[{verdict:<9}]"), format!("[{:<9}]", verdict.as_str()));
        }
        let mut words: Vec<&str> = Verdict::ALL.iter().map(|verdict| verdict.as_str()).collect();
        words.dedup();
        assert_eq!(words, ["passed", "flaky", "failed", "infra", "skipped", "cancelled"]);
    }

    #[test]
    fn a_tally_says_what_is_in_it_and_what_of_it_is_excused() {
        assert_eq!(Tally::default().to_string(), "no tests run");
        let mut tally = Tally::default();
        for verdict in [Verdict::Failed, Verdict::Skipped, Verdict::Passed] {
            tally.add(verdict);
        }
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 1 skipped");
        tally.add_quarantined();
        assert_eq!(tally.to_string(), "1 passed, 2 failed (1 in quarantine), 1 skipped");
    }

    #[test]
    fn a_reason_reads_as_words() {
        assert_eq!(CancelReason::Interrupt.to_string(), "Ctrl-C (SIGINT)");
        assert!(CancelReason::Again > CancelReason::FailFast);
    }
}
