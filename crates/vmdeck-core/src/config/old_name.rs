//! The variables of older systems, as rows of a table that comes in from outside.

/// A variable of an older system.
#[derive(Clone, Copy, Debug)]
pub struct OldName {
    /// The family in `[compat] env`; empty = the variable is always read.
    pub family: &'static str,
    /// The name of the variable.
    pub name: &'static str,
    /// What the variable sets.
    pub to: To,
    /// What a person who sets it should know.
    pub note: Option<&'static str>,
}

/// What an old name sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The name sets this key.
    Key(&'static str),
    /// The name sets this key of every guest of the backend and of the system, if one is given; with it, another key
    /// where that is unset.
    Guests {
        /// The backend.
        backend: &'static str,
        /// The system, as in `os`.
        os: Option<&'static str>,
        /// The key below the guest.
        key: &'static str,
        /// The other key with its value.
        with: Option<(&'static str, &'static str)>,
    },
    /// The name sets nothing; the note says why.
    Nothing,
}
