//! The runs of this folder, as a list to choose from, and what the last of them said of each case.

use std::{collections::BTreeMap, path::PathBuf};
use vmdeck_model::{exit::RunExit, outcome::Verdict};

/// A run of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastRunRow {
    /// The folder of its record.
    pub dir: PathBuf,
    /// What is known of it, in one line.
    pub line: String,
    /// How it ended; `None` = it is in progress, or has died.
    pub exit: Option<RunExit>,
    /// Whether somebody carries it out.
    pub is_running: bool,
}

/// An earlier run in which a case passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GreenRun {
    /// The folder of its record.
    pub dir: PathBuf,
    /// Which run it is, in words.
    pub line: String,
    /// How long the case took, in milliseconds.
    pub took_ms: u64,
    /// How long the boot of its guest took, in milliseconds; `None` = the guest had booted before.
    pub boot_ms: Option<u64>,
}

/// What the last runs said of each case, by the word that selects it; the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaseHistory(pub BTreeMap<String, Vec<Verdict>>);

impl CaseHistory {
    /// Returns the last verdicts of a case, at most so many.
    pub fn of(&self, selector: &str, most: usize) -> &[Verdict] {
        let all = self.0.get(selector).map_or(&[][..], Vec::as_slice);
        &all[all.len().saturating_sub(most)..]
    }
}
