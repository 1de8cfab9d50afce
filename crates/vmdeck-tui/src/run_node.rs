//! One row of the run pane: a guest, a suite or a case, with what is known of it.

use std::borrow::Cow;
use vmdeck_model::{
    ids::{CaseId, GuestId},
    outcome::{Tally, Verdict},
    subtest::{Subtest, SubtestStatus},
};

/// The state of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// The row has not begun.
    Waiting,
    /// The row is running, since this time of the run.
    On(u64),
    /// The row has ended.
    Ended(Verdict),
}

/// A row of the run pane.
#[derive(Clone, Debug, PartialEq)]
pub struct RunNode {
    /// The guest.
    pub guest: GuestId,
    /// The suite, if the row is one or a part of one.
    pub suite: Option<String>,
    /// The case, if the row is one, or a part of one.
    pub case: Option<String>,
    /// The test that the case ran itself, if the row is one.
    pub subtest: Option<Subtest>,
    /// What the case is called, where its id cannot hold that.
    pub title: Option<String>,
    /// Whether the case has such tests: then `folded` hides those that did not fail.
    pub has_subtests: bool,
    /// The state of the row.
    pub state: NodeState,
    /// How long the row took, in milliseconds; for a suite or guest, all cases together.
    pub took_ms: u64,
    /// The verdicts of the cases that have ended.
    pub tally: Tally,
    /// How many cases there are in all.
    pub planned: usize,
    /// Why the row did not pass.
    pub message: String,
    /// Whether the rows below it are hidden.
    pub folded: bool,
}

impl RunNode {
    /// Returns the row of a case that failed, where nothing else is asked of it than its log.
    pub fn of_failure(guest: GuestId, suite: &str, case: &str) -> Self {
        Self {
            guest,
            suite: Some(suite.to_owned()),
            case: Some(case.to_owned()),
            title: None,
            subtest: None,
            has_subtests: false,
            state: NodeState::Ended(Verdict::Failed),
            took_ms: 0,
            tally: Tally::default(),
            planned: 1,
            message: String::new(),
            folded: false,
        }
    }

    /// Returns the row of a test that the case of this row ran itself.
    #[must_use]
    pub fn with_subtest(&self, subtest: &Subtest) -> Self {
        let state = match subtest.status {
            SubtestStatus::Failed | SubtestStatus::Error => Verdict::Failed,
            SubtestStatus::Skipped | SubtestStatus::Xfail => Verdict::Skipped,
            SubtestStatus::Passed | SubtestStatus::Xpass if subtest.flaky => Verdict::Flaky,
            SubtestStatus::Passed | SubtestStatus::Xpass => Verdict::Passed,
        };
        Self {
            subtest: Some(subtest.clone()),
            has_subtests: false,
            state: NodeState::Ended(state),
            took_ms: subtest.took_ms.unwrap_or(0),
            message: subtest.message.clone(),
            ..self.clone()
        }
    }

    /// Returns whether the row is a case, and no part of one.
    pub fn is_case(&self) -> bool {
        self.case.is_some() && self.subtest.is_none()
    }

    /// Returns the SELECT word for the row; of a part of a case, the case's.
    pub fn selector(&self) -> String {
        match (&self.suite, &self.case) {
            (Some(suite), Some(case)) => format!("{suite}/{case}@{}", self.guest),
            (Some(suite), None) => format!("{suite}@{}", self.guest),
            _ => format!("@{}", self.guest),
        }
    }

    /// Returns whether the row has ended and failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, NodeState::Ended(verdict) if verdict.is_failure())
    }

    /// Returns the name of the row in the pane.
    pub fn name(&self) -> Cow<'_, str> {
        let own = match (&self.subtest, &self.case) {
            (Some(subtest), _) => &subtest.name,
            (None, Some(_)) if self.title.is_some() => return Cow::Borrowed(self.title.as_deref().unwrap_or_default()),
            // With the values of its axes, it is told in words.
            (None, Some(case)) if case.contains(':') => {
                return CaseId::try_from(case.clone()).map_or(Cow::Borrowed(case), |id| Cow::Owned(id.shown()));
            }
            (None, case) => case.as_ref().or(self.suite.as_ref()).map_or(self.guest.as_str(), String::as_str),
        };
        Cow::Borrowed(own)
    }

    /// Returns how deep the row is in the tree.
    pub fn depth(&self) -> usize {
        usize::from(self.suite.is_some()) + usize::from(self.case.is_some()) + usize::from(self.subtest.is_some())
    }
}
