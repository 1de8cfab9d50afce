//! The exit codes, and which one wins when several apply.
//!
//! README's table is compared with [`RunExit::ALL`] by a test.

use super::outcome::{CancelReason, Signal, Tally};
use crate::error::Blame;
use serde::{Deserialize, Serialize};

/// The exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum RunExit {
    /// All cases passed (flaky and skipped cases included).
    Passed,
    /// A test failed.
    TestFailed,
    /// The command line or the config is wrong.
    Usage,
    /// The host is not ready: preflight found a fatal problem.
    HostNotReady,
    /// The lock could not be acquired in time.
    LockTimeout,
    /// A guest could not be launched, booted or reached, or a connection was lost mid-test.
    Infra,
    /// Something could not be proven cleaned up.
    Leftover,
    /// vmdeck itself has a bug.
    Bug,
    /// The run was cancelled by SIGINT.
    Interrupted,
    /// The run was cancelled by SIGTERM.
    Terminated,
}

impl RunExit {
    /// Every code with its meaning.
    pub const ALL: [(RunExit, u8, &'static str); 10] = [
        (RunExit::Passed, 0, "all passed"),
        (RunExit::TestFailed, 1, "a test failed"),
        (RunExit::Usage, 2, "usage or config error"),
        (RunExit::HostNotReady, 3, "host not ready (preflight)"),
        (RunExit::LockTimeout, 4, "could not acquire the lock in time"),
        (
            RunExit::Infra,
            5,
            "infra: a guest could not be launched, booted or reached, or a connection was lost mid-test",
        ),
        (RunExit::Leftover, 6, "something could not be proven cleaned up"),
        (RunExit::Bug, 70, "a bug in vmdeck"),
        (RunExit::Interrupted, 130, "cancelled by SIGINT or SIGQUIT"),
        (RunExit::Terminated, 143, "cancelled by SIGTERM or SIGHUP"),
    ];

    /// Returns the exit code as a number.
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|row| row.0 == self).map_or(70, |row| row.1)
    }

    /// Returns the code for a fault that ended everything.
    pub fn of_blame(blame: Blame) -> Self {
        match blame {
            Blame::User => RunExit::Usage,
            Blame::Host => RunExit::HostNotReady,
            Blame::Lock => RunExit::LockTimeout,
            Blame::Infra => RunExit::Infra,
            Blame::Leftover => RunExit::Leftover,
            Blame::Bug => RunExit::Bug,
            Blame::Cancelled => RunExit::Interrupted,
        }
    }

    /// Returns what is news where the run before ended as `before`: that it turned green, or red.
    pub fn turn_from(self, before: Option<Self>) -> Option<&'static str> {
        match (before?, self) {
            (RunExit::Passed, RunExit::Passed) => None,
            (_, RunExit::Passed) => Some("green again"),
            (RunExit::Passed, _) => Some("RED now"),
            _ => None,
        }
    }

    /// Returns the code of what was ended by a signal.
    pub fn of_signal(signal: Signal) -> Self {
        match signal {
            Signal::Interrupt | Signal::Quit => RunExit::Interrupted,
            Signal::Terminate | Signal::Hangup => RunExit::Terminated,
        }
    }

    /// Returns the code of a run that got as far as its guests. If several apply, the order is 6, 130/143, 5, 1.
    pub fn of_run(tally: &Tally, infra: bool, leftover: bool, cancelled: Option<CancelReason>) -> Self {
        if leftover {
            return RunExit::Leftover;
        }
        match cancelled {
            Some(CancelReason::Terminate | CancelReason::Hangup) => return RunExit::Terminated,
            Some(
                CancelReason::Interrupt
                | CancelReason::Quit
                | CancelReason::Again
                | CancelReason::User
                | CancelReason::Stale,
            ) => {
                return RunExit::Interrupted;
            }
            Some(CancelReason::LockLost | CancelReason::ReportFailed) => return RunExit::Infra,
            Some(CancelReason::FailFast | CancelReason::Trouble) | None => {}
        }
        if infra || tally.infra > 0 {
            RunExit::Infra
        } else if tally.red() > 0 {
            RunExit::TestFailed
        } else if tally.cancelled > 0 {
            // One guest was stopped by a person: what was not run is not green.
            RunExit::Interrupted
        } else {
            RunExit::Passed
        }
    }
}

impl From<RunExit> for u8 {
    fn from(exit: RunExit) -> u8 {
        exit.code()
    }
}

impl TryFrom<u8> for RunExit {
    type Error = String;
    fn try_from(code: u8) -> Result<Self, String> {
        Self::ALL.iter().find(|row| row.1 == code).map(|row| row.0).ok_or_else(|| format!("{code} is not an exit code"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_wins() {
        let tally = Tally { passed: 3, failed: 1, infra: 1, ..Tally::default() };
        let red = Tally { passed: 3, failed: 1, flaky: 1, ..Tally::default() };
        let green = Tally { passed: 3, flaky: 1, skipped: 2, ..Tally::default() };
        let check = |tally, infra, leftover, cancelled, code| {
            assert_eq!(RunExit::of_run(tally, infra, leftover, cancelled).code(), code);
        };
        check(&green, false, false, None, 0);
        check(&red, false, false, None, 1);
        check(&red, false, false, Some(CancelReason::FailFast), 1);
        check(&tally, false, false, None, 5);
        check(&green, true, false, None, 5);
        check(&tally, true, false, Some(CancelReason::Interrupt), 130);
        check(&tally, true, false, Some(CancelReason::Terminate), 143);
        check(&green, false, false, Some(CancelReason::LockLost), 5);
        check(&green, true, true, Some(CancelReason::Interrupt), 6);
        let stopped = Tally { passed: 1, cancelled: 1, ..Tally::default() };
        check(&stopped, false, false, None, 130);
    }

    #[test]
    fn codes_are_distinct_and_round_trip() {
        for (exit, code, _) in RunExit::ALL {
            assert_eq!((RunExit::try_from(code), u8::from(exit)), (Ok(exit), code));
        }
    }
}
