//! Trouble of a guest's system that its console tells: what is looked for, and how bad each kind is.

/// A kind of trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TroubleKind {
    /// Its name: `oom-kill`.
    pub id: String,
    /// What it is about: `memory`.
    pub category: String,
    /// How bad it is.
    pub severity: TroubleSeverity,
    /// What ends at once where it is found.
    pub ends: TroubleEnd,
    /// The regular expression that is searched anywhere in a line.
    pub regex: String,
}

/// What trouble ends at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleEnd {
    /// Nothing: the case is judged at its end.
    Nothing,
    /// The running case, because the guest cannot be trusted any more; its machine is replaced.
    Case,
    /// The whole run.
    Run,
}

impl TroubleEnd {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["case", "run", "nothing"];

    /// Reads a word; anything unknown is `case`, which hides nothing.
    pub fn of_word(word: &str) -> Self {
        match word {
            "nothing" => TroubleEnd::Nothing,
            "run" => TroubleEnd::Run,
            _ => TroubleEnd::Case,
        }
    }

    /// Returns the word.
    pub fn word(self) -> &'static str {
        match self {
            TroubleEnd::Nothing => "nothing",
            TroubleEnd::Case => "case",
            TroubleEnd::Run => "run",
        }
    }
}

/// How bad a kind of trouble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleSeverity {
    /// It is no trouble; a line of this kind is of no other kind.
    Ignore,
    /// It is reported.
    Warn,
    /// The case during which it comes has failed.
    Fail,
}

impl TroubleSeverity {
    /// The words of the config.
    pub const WORDS: &'static [&'static str] = &["fail", "warn", "ignore"];

    /// Reads a word; anything unknown is `fail`, which hides nothing.
    pub fn of_word(word: &str) -> Self {
        match word {
            "ignore" => TroubleSeverity::Ignore,
            "warn" => TroubleSeverity::Warn,
            _ => TroubleSeverity::Fail,
        }
    }

    /// Returns the word.
    pub fn word(self) -> &'static str {
        match self {
            TroubleSeverity::Ignore => "ignore",
            TroubleSeverity::Warn => "warn",
            TroubleSeverity::Fail => "fail",
        }
    }
}
