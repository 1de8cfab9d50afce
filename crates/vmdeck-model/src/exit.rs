//! The exit codes, and which one wins when several hold.
//!
//! README's table is compared with [`Exit::ALL`] by a test.

use super::outcome::{CancelReason, Tally};
use crate::error::Blame;
use serde::{Deserialize, Serialize};

/// What the process returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Exit {
    /// All passed (flaky and skipped cases included).
    Passed,
    /// A test failed.
    TestFailed,
    /// Usage or config error.
    Usage,
    /// Host not ready: preflight.
    HostNotReady,
    /// The lock was not had in time.
    LockTimeout,
    /// A guest could not be launched, booted or reached, or a connection was lost mid-test.
    Infra,
    /// Something could not be proven cleaned up.
    Leftover,
    /// A bug in vmdeck.
    Bug,
    /// Cancelled by SIGINT.
    Interrupted,
    /// Cancelled by SIGTERM.
    Terminated,
}

impl Exit {
    /// Every code with its meaning.
    pub const ALL: [(Exit, u8, &'static str); 10] = [
        (Exit::Passed, 0, "all passed"),
        (Exit::TestFailed, 1, "a test failed"),
        (Exit::Usage, 2, "usage or config error"),
        (Exit::HostNotReady, 3, "host not ready (preflight)"),
        (Exit::LockTimeout, 4, "lock not had in time"),
        (Exit::Infra, 5, "infra: a guest could not be launched, booted or reached, or a connection was lost mid-test"),
        (Exit::Leftover, 6, "something could not be proven cleaned up"),
        (Exit::Bug, 70, "a bug in vmdeck"),
        (Exit::Interrupted, 130, "cancelled by SIGINT"),
        (Exit::Terminated, 143, "cancelled by SIGTERM"),
    ];

    /// The number.
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|row| row.0 == self).map_or(70, |row| row.1)
    }

    /// The code for a fault that ended everything.
    pub fn of_blame(blame: Blame) -> Self {
        match blame {
            Blame::User => Exit::Usage,
            Blame::Host => Exit::HostNotReady,
            Blame::Lock => Exit::LockTimeout,
            Blame::Infra => Exit::Infra,
            Blame::Leftover => Exit::Leftover,
            Blame::Bug => Exit::Bug,
            Blame::Cancelled => Exit::Interrupted,
        }
    }

    /// The code of a run that got as far as its guests. If several hold: 6, 130/143, 5, 1.
    pub fn of_run(tally: &Tally, infra: bool, leftover: bool, cancelled: Option<CancelReason>) -> Self {
        if leftover {
            return Exit::Leftover;
        }
        match cancelled {
            Some(CancelReason::Terminate | CancelReason::Hangup) => return Exit::Terminated,
            Some(CancelReason::Interrupt | CancelReason::Again | CancelReason::User) => return Exit::Interrupted,
            Some(CancelReason::LockLost | CancelReason::ReportFailed) => return Exit::Infra,
            Some(CancelReason::FailFast) | None => {}
        }
        if infra || tally.infra > 0 {
            Exit::Infra
        } else if tally.failed > 0 {
            Exit::TestFailed
        } else if tally.cancelled > 0 {
            // One guest was stopped by a person: what was not run is not green.
            Exit::Interrupted
        } else {
            Exit::Passed
        }
    }
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> u8 {
        exit.code()
    }
}

impl TryFrom<u8> for Exit {
    type Error = String;
    fn try_from(code: u8) -> Result<Self, String> {
        Self::ALL.iter().find(|row| row.1 == code).map(|row| row.0).ok_or_else(|| format!("{code} is no exit code"))
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
            assert_eq!(Exit::of_run(tally, infra, leftover, cancelled).code(), code);
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
        for (exit, code, _) in Exit::ALL {
            assert_eq!(Exit::try_from(code), Ok(exit));
        }
    }
}
