//! One row of the run pane: a guest, a suite or a case, with what is known of it.

use vmdeck_model::{
    ids::GuestId,
    outcome::{Tally, Verdict},
};

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It has not begun.
    Waiting,
    /// It is on, since this time of the run.
    On(u64),
    /// It has ended.
    Ended(Verdict),
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunNode {
    /// The guest.
    pub guest: GuestId,
    /// The suite, if it is one or a part of one.
    pub suite: Option<String>,
    /// The case, if it is one.
    pub case: Option<String>,
    /// How it stands.
    pub state: NodeState,
    /// How long it took, milliseconds; of a suite or guest, all cases together.
    pub took_ms: u64,
    /// Cases that have ended.
    pub tally: Tally,
    /// Cases in all.
    pub planned: usize,
    /// Why it was no pass.
    pub message: String,
    /// Whether its children are folded in.
    pub folded: bool,
}

impl RunNode {
    /// Returns the SELECT word that means it.
    pub fn selector(&self) -> String {
        match (&self.suite, &self.case) {
            (Some(suite), Some(case)) => format!("{suite}/{case}@{}", self.guest),
            (Some(suite), None) => format!("{suite}@{}", self.guest),
            _ => format!("@{}", self.guest),
        }
    }

    /// Returns its name in the pane.
    pub fn name(&self) -> &str {
        self.case.as_deref().or(self.suite.as_deref()).unwrap_or(self.guest.as_str())
    }

    /// Returns how deep it stands.
    pub fn depth(&self) -> usize {
        usize::from(self.suite.is_some()) + usize::from(self.case.is_some())
    }
}
