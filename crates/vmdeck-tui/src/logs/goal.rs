//! What a jump in a log goes to.

/// What a jump goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A match of the person's search.
    Own,
    /// A line that matches this expression.
    Like(&'static str),
    /// The line that says why the case failed, else the first that reports an error.
    Evidence,
    /// The line of this number.
    Line(u64),
}

/// A jump to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Jump {
    /// What the jump goes to.
    pub(super) goal: Goal,
    /// Whether it goes towards the end of the log.
    pub(super) forward: bool,
}
