//! The runs of this folder, as a list to choose from, and what the last of them said of each case.

use std::{collections::BTreeMap, path::PathBuf};
use vmdeck_model::{event::Phase, exit::RunExit, ids::GuestId, outcome::Verdict};

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

/// What the last runs said of a case: the verdict, and how long it took in milliseconds.
pub type CaseResult = (Verdict, u64);

/// A boot in an earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRow {
    /// The first digits of the run's id.
    pub run: String,
    /// How long each phase of the boot took, in milliseconds, in their order.
    pub phases: Vec<(Phase, u64)>,
    /// How long the boot took, in milliseconds; `None` = it did not come to its end.
    pub boot_ms: Option<u64>,
}

/// What the last runs said; of each list the newest is the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaseHistory {
    /// Each case, by the word that selects it.
    pub cases: BTreeMap<String, Vec<CaseResult>>,
    /// The boots of each guest.
    pub boots: BTreeMap<GuestId, Vec<BootRow>>,
}

impl CaseHistory {
    /// Returns the last results of a case, at most so many.
    pub fn of(&self, selector: &str, most: usize) -> &[CaseResult] {
        let all = self.cases.get(selector).map_or(&[][..], Vec::as_slice);
        &all[all.len().saturating_sub(most)..]
    }

    /// Returns how many of a hundred runs of a case were not green, or only at a second attempt; `None` = all were, or too few are known.
    pub fn trouble(&self, selector: &str) -> Option<usize> {
        let all = self.cases.get(selector).filter(|all| all.len() >= KNOWN)?;
        let bad = all.iter().filter(|(verdict, _)| *verdict != Verdict::Passed).count();
        (bad > 0).then(|| bad * 100 / all.len())
    }
}

/// How many runs of a case must be known for its rate to mean something.
const KNOWN: usize = 4;
