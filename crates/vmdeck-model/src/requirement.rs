//! What a suite needs in its guests before it begins: programs, and how new they must be.
//!
//! Asking a guest, and installing, is the engine's work.

use std::{cmp::Ordering, collections::BTreeMap, fmt};

/// Something that must be there, and how it is brought there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The command that succeeds where it is there, such as `go version`.
    pub cmd: String,
    /// The least version, which the command's output tells.
    pub at_least: Option<Version>,
    /// What installs it, by the system's word.
    pub install: BTreeMap<&'static str, String>,
}

impl Requirement {
    /// Returns what installs it in the system of this word, if anything does.
    pub fn install_in(&self, system: &str) -> Option<&str> {
        self.install.get(system).map(String::as_str)
    }
}

/// A version: numbers with dots between them.
#[derive(Clone, Debug, Eq)]
pub struct Version(Vec<u64>);

impl Version {
    /// Reads a version, such as `1.25`; `None` = it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Option<Vec<u64>> = text.trim().split('.').map(|part| part.parse().ok()).collect();
        parts.filter(|parts| !parts.is_empty()).map(Self)
    }

    /// Finds the first version in a text that a program has written: the first numbers with a dot between them, else the first
    /// number.
    pub fn find(text: &str) -> Option<Self> {
        let is_part = |c: char| c.is_ascii_digit() || c == '.';
        let words =
            || text.split(|c: char| !is_part(c)).map(|word| word.trim_matches('.')).filter(|word| !word.is_empty());
        words().filter(|word| word.contains('.')).find_map(Self::parse).or_else(|| words().find_map(Self::parse))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let part = |version: &Self, at: usize| version.0.get(at).copied().unwrap_or(0);
        let count = self.0.len().max(other.0.len());
        (0..count).map(|at| part(self, at).cmp(&part(other, at))).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(u64::to_string).collect::<Vec<_>>().join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_and_compared_by_their_numbers() {
        for (text, version) in [
            ("go version go1.25.5 linux/arm64", Some("1.25.5")),
            ("Python 3.11.7", Some("3.11.7")),
            ("gcc (Debian 12.2.0-14) 12.2.0", Some("12.2.0")),
            ("v22", Some("22")),
            ("openssl 3.", Some("3")),
            ("none", None),
            ("99999999999999999999.1 then 1.2", Some("1.2")),
        ] {
            assert_eq!(Version::find(text).map(|v| v.to_string()).as_deref(), version, "{text}");
        }
        let version = |text: &str| Version::parse(text).expect("a version");
        assert!(version("1.9") < version("1.25") && version("2") > version("1.99.9") && version("1.0") == version("1"));
        assert_eq!(Version::parse("1.x"), None);
        assert_eq!(Version::parse(""), None);
    }
}
