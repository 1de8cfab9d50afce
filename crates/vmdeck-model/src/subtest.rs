//! Sub-tests: what the tests that a case's command ran reported themselves, one by one.
//!
//! Reading the formats in which tools report is `vmdeck-results`' work, the case's verdict is `engine::cases`'.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a sub-test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubtestStatus {
    /// The sub-test passed.
    Passed,
    /// The sub-test failed.
    Failed,
    /// The sub-test was not run.
    Skipped,
    /// The sub-test failed as its author expects.
    Xfail,
    /// The sub-test passed although its author expects it to fail; whether that is a failure, the tool's exit status tells.
    Xpass,
    /// The sub-test did not run to its end, or what it stands in broke: a fixture, a build, a file that could not be loaded.
    Error,
}

impl SubtestStatus {
    /// Every status, in the order in which counts list them.
    pub const ALL: [SubtestStatus; 6] = [
        SubtestStatus::Passed,
        SubtestStatus::Failed,
        SubtestStatus::Error,
        SubtestStatus::Skipped,
        SubtestStatus::Xfail,
        SubtestStatus::Xpass,
    ];

    /// Returns whether the status says that something is wrong.
    pub fn is_failure(self) -> bool {
        matches!(self, SubtestStatus::Failed | SubtestStatus::Error)
    }

    /// Returns the word used in events and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            SubtestStatus::Passed => "passed",
            SubtestStatus::Failed => "failed",
            SubtestStatus::Skipped => "skipped",
            SubtestStatus::Xfail => "xfail",
            SubtestStatus::Xpass => "xpass",
            SubtestStatus::Error => "error",
        }
    }
}

impl fmt::Display for SubtestStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A sub-test that has ended; every text in it is clean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subtest {
    /// The name, with the names of what it is part of before it; no two of one attempt have the same.
    pub name: String,
    /// The part of the name that says what it is part of: a file, a package, a class.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<String>,
    /// How it ended.
    pub status: SubtestStatus,
    /// How long it took in milliseconds, where the tool says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub took_ms: Option<u64>,
    /// The file where it failed or was written, as the tool wrote it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// The line in that file, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// Why it did not pass; empty = nothing is said.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// Whether it failed first and passed when it was tried again.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub flaky: bool,
    /// Where its failure is explained, if it is in quarantine.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quarantined: Option<String>,
}

impl Subtest {
    /// Returns the name without what it is part of.
    pub fn title(&self) -> &str {
        let rest = self.class.as_deref().and_then(|class| self.name.strip_prefix(class));
        let rest = rest.map(|rest| rest.trim_start_matches([' ', '>', ':']));
        rest.filter(|rest| !rest.is_empty()).unwrap_or(&self.name)
    }

    /// Returns the place as `file:line`, or the file alone; `None` = the tool names none.
    pub fn place(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        Some(self.line.map_or_else(|| file.clone(), |line| format!("{file}:{line}")))
    }
}

/// How many sub-tests have each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtestTally {
    /// How many are [`SubtestStatus::Passed`].
    #[serde(default)]
    pub passed: u32,
    /// How many are [`SubtestStatus::Failed`].
    #[serde(default)]
    pub failed: u32,
    /// How many are [`SubtestStatus::Error`].
    #[serde(default)]
    pub error: u32,
    /// How many are [`SubtestStatus::Skipped`].
    #[serde(default)]
    pub skipped: u32,
    /// How many are [`SubtestStatus::Xfail`].
    #[serde(default)]
    pub xfail: u32,
    /// How many are [`SubtestStatus::Xpass`].
    #[serde(default)]
    pub xpass: u32,
    /// How many of those that passed failed first.
    #[serde(default)]
    pub flaky: u32,
}

impl SubtestTally {
    /// Counts so many more with this status.
    pub fn add(&mut self, status: SubtestStatus, count: u32) {
        let slot = self.slot(status);
        *slot = slot.saturating_add(count);
    }

    /// Takes one of this status back.
    pub fn take(&mut self, status: SubtestStatus) {
        let slot = self.slot(status);
        *slot = slot.saturating_sub(1);
    }

    /// Returns how many have this status.
    pub fn of(&self, status: SubtestStatus) -> u32 {
        let mut copy = *self;
        *copy.slot(status)
    }

    /// Returns how many say that something is wrong.
    pub fn failures(&self) -> u32 {
        self.failed.saturating_add(self.error)
    }

    /// Returns how many there are.
    pub fn total(&self) -> u32 {
        SubtestStatus::ALL.iter().fold(0, |sum, status| sum.saturating_add(self.of(*status)))
    }

    /// Adds the counts of another tally.
    pub fn merge(&mut self, other: &SubtestTally) {
        for status in SubtestStatus::ALL {
            self.add(status, other.of(status));
        }
        self.flaky = self.flaky.saturating_add(other.flaky);
    }

    fn slot(&mut self, status: SubtestStatus) -> &mut u32 {
        match status {
            SubtestStatus::Passed => &mut self.passed,
            SubtestStatus::Failed => &mut self.failed,
            SubtestStatus::Error => &mut self.error,
            SubtestStatus::Skipped => &mut self.skipped,
            SubtestStatus::Xfail => &mut self.xfail,
            SubtestStatus::Xpass => &mut self.xpass,
        }
    }
}

impl fmt::Display for SubtestTally {
    /// Writes the counts that are not zero: `12 passed, 1 failed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for status in SubtestStatus::ALL.into_iter().filter(|status| self.of(*status) > 0) {
            let count = self.of(status);
            let plural = if status == SubtestStatus::Error && count != 1 { "s" } else { "" };
            write!(f, "{comma}{count} {status}{plural}")?;
            comma = ", ";
        }
        if comma.is_empty() {
            f.write_str("none")?;
        }
        if self.flaky > 0 {
            write!(f, " ({} flaky)", self.flaky)?;
        }
        Ok(())
    }
}

/// How far the sub-tests of a case are that still runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtestProgress {
    /// The counts so far.
    pub tally: SubtestTally,
    /// How many there will be, where the tool says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<u32>,
    /// The names of some that are running.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub running: Vec<String>,
    /// The names of those that failed since the progress was told last; not every one where they are many.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub failed: Vec<String>,
}

impl fmt::Display for SubtestProgress {
    /// Writes how many have ended: `12 ok, 1 failed, 2 running of 40`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures = self.tally.failures();
        write!(f, "{} ok", self.tally.total() - failures)?;
        if failures > 0 {
            write!(f, ", {failures} failed")?;
        }
        if !self.running.is_empty() {
            write!(f, ", {} running", self.running.len())?;
        }
        if let Some(expected) = self.expected {
            write!(f, " of {expected}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, class: Option<&str>) -> Subtest {
        Subtest {
            name: name.into(),
            class: class.map(str::to_owned),
            status: SubtestStatus::Passed,
            took_ms: None,
            file: None,
            line: None,
            message: String::new(),
            flaky: false,
            quarantined: None,
        }
    }

    #[test]
    fn a_title_is_the_name_without_its_class() {
        for (name, class, title) in [
            ("a > b > c", Some("a > b"), "c"),
            ("pkg::TestX/y", Some("pkg"), "TestX/y"),
            ("calc adds", None, "calc adds"),
            ("same", Some("same"), "same"),
            ("other", Some("box"), "other"),
        ] {
            assert_eq!(named(name, class).title(), title, "{name}");
        }
    }

    #[test]
    fn every_status_is_counted_in_its_own_place() {
        for status in SubtestStatus::ALL {
            let mut tally = SubtestTally::default();
            tally.add(status, 3);
            tally.take(status);
            for other in SubtestStatus::ALL {
                assert_eq!(tally.of(other), if other == status { 2 } else { 0 });
            }
            assert_eq!(tally.failures() > 0, status.is_failure());
        }
        let mut tally = SubtestTally::default();
        tally.add(SubtestStatus::Passed, u32::MAX);
        tally.add(SubtestStatus::Failed, 2);
        assert_eq!((tally.total(), tally.failures()), (u32::MAX, 2), "it never turns over");
        tally = SubtestTally { passed: 2, error: 2, flaky: 1, ..SubtestTally::default() };
        assert_eq!(tally.to_string(), "2 passed, 2 errors (1 flaky)");
    }
}
