//! The event with which a case ends: made where nothing was run, and read as the attempt that it tells of.

use super::{
    event::{Attempt, CaseCause, EventKind},
    found_view::FoundFor,
    outcome::Verdict,
};

impl EventKind {
    /// Returns the end of a case of which nothing was run: its name and round, the verdict and why, and what that comes from.
    pub fn case_not_run(
        (guest, suite, case, round): FoundFor,
        verdict: Verdict,
        message: String,
        cause: CaseCause,
    ) -> Self {
        Self::CaseEnded {
            guest,
            suite,
            case,
            round,
            verdict,
            exit: None,
            took_ms: 0,
            message,
            stdout_tail: String::new(),
            stderr_tail: String::new(),
            cause: Some(cause),
            earlier: Vec::new(),
            subtests: None,
            by_subtests: false,
            quarantined: None,
        }
    }

    /// Returns the last attempt at a case that has ended; `None` = it is another event.
    pub fn last_attempt(&self) -> Option<Attempt> {
        let Self::CaseEnded { verdict, exit, took_ms, message, stdout_tail, stderr_tail, .. } = self else {
            return None;
        };
        Some(Attempt {
            verdict: *verdict,
            exit: *exit,
            took_ms: *took_ms,
            message: message.clone(),
            stdout_tail: stdout_tail.clone(),
            stderr_tail: stderr_tail.clone(),
        })
    }
}
