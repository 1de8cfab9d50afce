//! The library of troubles: the kinds that vmdeck brings, and what finds them in lines of a console.
//!
//! The kinds are data, with lines that must match and lines that must not; `docs/trouble.md` lists them.

mod symbols;

use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::Deserialize;
pub use symbols::KernelSymbols;
use vmdeck_model::trouble::{TroubleEnd, TroubleKind, TroubleSeverity};

/// The kinds that need no config.
const KINDS: &str = include_str!("kinds.toml");
/// The most memory that the expressions of all kinds may take, in bytes.
const SIZE: usize = 64 << 20;

#[derive(Deserialize)]
struct Library {
    kind: Vec<LibraryKind>,
}

/// A kind as the data has it; the rest of it is for tests and people.
#[derive(Deserialize)]
struct LibraryKind {
    id: String,
    category: String,
    severity: String,
    ends_case: bool,
    regex: String,
}

/// Returns the kinds that vmdeck brings, in the order in which they are tried.
pub fn built_in() -> Vec<TroubleKind> {
    // A test reads it: it is part of this program.
    let library: Library = toml::from_str(KINDS).unwrap_or_else(|_| Library { kind: Vec::new() });
    let kind = |kind: LibraryKind| TroubleKind {
        severity: TroubleSeverity::of_word(&kind.severity),
        id: kind.id,
        category: kind.category,
        ends: if kind.ends_case { TroubleEnd::Case } else { TroubleEnd::Nothing },
        regex: kind.regex,
    };
    library.kind.into_iter().map(kind).collect()
}

/// Returns why an expression cannot be used, in one line.
pub fn refuse(regex: &str) -> Option<String> {
    let error = RegexSetBuilder::new([regex]).size_limit(SIZE).build().err()?;
    Some(error.to_string().lines().last().unwrap_or_default().trim().to_owned())
}

/// What finds trouble in lines.
pub struct TroubleFinder {
    kinds: Vec<TroubleKind>,
    set: RegexSet,
}

impl TroubleFinder {
    /// Returns what finds these kinds; their expressions were checked with the config.
    pub fn new(kinds: &[TroubleKind]) -> Self {
        let set = RegexSetBuilder::new(kinds.iter().map(|kind| &kind.regex)).size_limit(SIZE).build();
        let kinds = if set.is_ok() { kinds.to_vec() } else { Vec::new() };
        Self { kinds, set: set.unwrap_or_else(|_| RegexSet::empty()) }
    }

    /// Returns the kind of trouble that a line tells: the first that fits it.
    pub fn find(&self, line: &[u8]) -> Option<&TroubleKind> {
        let kind = self.kinds.get(self.set.matches(line).iter().next()?)?;
        (kind.severity != TroubleSeverity::Ignore).then_some(kind)
    }
}

#[cfg(test)]
mod tests;
