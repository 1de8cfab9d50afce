//! What the last runs of a folder said of each case and of each guest's boot.

use super::{SummaryCases, list};
use std::{collections::BTreeMap, path::Path};
use vmdeck_model::{event::Phase, ids::GuestId, outcome::Verdict, select::word_of_case};

/// A case in an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastCase {
    /// The verdict.
    pub verdict: Verdict,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// A boot in an earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastBoot {
    /// The first eight digits of the run's id.
    pub run: String,
    /// How long each phase took, by its word, in milliseconds.
    pub phases_ms: BTreeMap<String, u64>,
    /// How long the boot took, in milliseconds; `None` = it did not come to its end.
    pub boot_ms: Option<u64>,
}

/// What the last runs said; of each list the newest is the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trends {
    /// Each case that was run, by the word that selects it.
    pub cases: BTreeMap<String, Vec<PastCase>>,
    /// Each guest that was booted.
    pub boots: BTreeMap<GuestId, Vec<PastBoot>>,
}

/// Returns what the last `most` runs of a folder said.
pub fn trends(folder: &Path, most: usize) -> Trends {
    trends_before(folder, None, most)
}

/// Returns what the last `most` runs of a folder said that began before the one with this record; without it, the last of all.
pub fn trends_before(folder: &Path, record: Option<&str>, most: usize) -> Trends {
    let mut runs = list(folder);
    if let Some(at) = record.and_then(|record| runs.iter().position(|run| run.name == record)) {
        // The newest is the first.
        runs.drain(..=at);
    }
    let mut out = Trends::default();
    runs.truncate(most);
    for run in runs.into_iter().rev() {
        let summary = vmdeck_files::read(&folder.join(&run.name).join("summary.json"), vmdeck_files::LARGE);
        let Some(summary) = summary.ok().and_then(|bytes| serde_json::from_slice::<SummaryCases>(&bytes).ok()) else {
            continue;
        };
        for case in summary.cases {
            let told = !matches!(case.verdict, Verdict::Skipped | Verdict::Cancelled);
            let word = word_of_case(&case.suite, &case.case, &case.guest);
            let past = PastCase { verdict: case.verdict, took_ms: case.took_ms };
            out.cases.entry(word).or_default().extend(told.then_some(past));
        }
        for guest in summary.guests {
            // A machine that was used again did not boot, nor did one that goes on from a snapshot.
            let is_restored = guest.phases_ms.contains_key(Phase::Restore.as_str());
            if let (Some(id), None, false) = (guest.guest, guest.reused, guest.phases_ms.is_empty() || is_restored) {
                let boot = PastBoot { run: run.short().to_owned(), phases_ms: guest.phases_ms, boot_ms: guest.boot_ms };
                out.boots.entry(id).or_default().push(boot);
            }
        }
    }
    out
}
