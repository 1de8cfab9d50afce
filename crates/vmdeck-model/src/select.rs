//! `suite[/case][@guest]` with globs: which cases run where.
//!
//! Reading the words from the command line is `cli`'s work.

use super::ids::{CaseId, GuestId, SuiteId};
use globset::{Glob, GlobMatcher};

/// One SELECT word.
#[derive(Clone, Debug)]
pub struct Selector {
    suite: GlobMatcher,
    case: GlobMatcher,
    guest: GlobMatcher,
}

/// Returns the SELECT word of exactly this case in this guest.
pub fn word_of_case(suite: &SuiteId, case: &CaseId, guest: &GuestId) -> String {
    format!("{suite}/{case}@{guest}")
}

/// Returns the SELECT word of a whole suite in this guest.
pub fn word_of_suite(suite: &SuiteId, guest: &GuestId) -> String {
    format!("{suite}@{guest}")
}

impl Selector {
    /// Reads `trust-store`, `*/install@windows`, `@debian`; an absent part is `*`.
    pub fn parse(word: &str) -> Result<Self, String> {
        let (path, guest) = word.split_once('@').map_or((word, "*"), |(path, guest)| (path, guest));
        let (suite, case) = path.split_once('/').map_or((path, "*"), |(suite, case)| (suite, case));
        let glob = |part: &str| {
            let part = if part.is_empty() { "*" } else { part };
            Glob::new(part).map(|g| g.compile_matcher()).map_err(|e| format!("`{word}` is not a selection: {e}"))
        };
        if word.is_empty() {
            return Err("an empty word selects nothing; leave it out to select everything".into());
        }
        Ok(Self { suite: glob(suite)?, case: glob(case)?, guest: glob(guest)? })
    }

    /// Returns whether the selector selects anything on this guest.
    pub fn takes(&self, guest: &GuestId) -> bool {
        self.guest.is_match(guest.as_str())
    }

    /// Returns whether the selector selects this case on a guest that goes by any of these names.
    pub fn matches(&self, suite: &SuiteId, case: &CaseId, guest: &[&GuestId]) -> bool {
        let names_it = || guest.iter().any(|name| self.guest.is_match(name.as_str()));
        self.suite.is_match(suite.as_str()) && self.case.is_match(case.as_str()) && names_it()
    }
}

/// Part `index` of `count` equal parts of the selected cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The index of the part, from 1.
    pub index: usize,
    /// The number of parts; at least `index`.
    pub count: usize,
}

impl Shard {
    /// Reads `I/N` with 1 <= I <= N.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a shard; write it like `2/5`: the second of five");
        let (index, count) = text.split_once('/').ok_or_else(bad)?;
        let shard = Self { index: index.parse().map_err(|_| bad())?, count: count.parse().map_err(|_| bad())? };
        if shard.index >= 1 && shard.index <= shard.count { Ok(shard) } else { Err(bad()) }
    }

    /// Returns whether the case at this position belongs to this part.
    pub fn takes(self, position: usize) -> bool {
        position % self.count == self.index - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(word: &str, path: (&str, &str, &str)) -> bool {
        let names = (
            SuiteId::new(path.0).expect("name"),
            CaseId::new(path.1).expect("name"),
            GuestId::new(path.2).expect("name"),
        );
        Selector::parse(word).expect("selector").matches(&names.0, &names.1, &[&names.2])
    }

    #[test]
    fn words() {
        let it = ("trust-store", "install", "windows");
        for yes in ["trust-store", "*/install@windows", "@windows", "trust*/in*", "trust-store/install@win*", "*"] {
            assert!(selects(yes, it), "{yes}");
        }
        for no in ["trust", "*/remove", "@debian", "trust-store/inst"] {
            assert!(!selects(no, it), "{no}");
        }
        assert!(Selector::parse("").is_err() && Selector::parse("[").is_err());
    }

    #[test]
    fn shards_take_every_case_once() {
        let shards: Vec<_> = (1..=3).map(|i| Shard::parse(&format!("{i}/3")).expect("shard")).collect();
        for position in 0..10 {
            assert_eq!(shards.iter().filter(|s| s.takes(position)).count(), 1);
        }
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(Shard::parse(bad).is_err(), "{bad}");
        }
    }
}
