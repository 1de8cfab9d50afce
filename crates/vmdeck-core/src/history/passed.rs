//! The last run in which a case passed, before another one.

use super::{PastRun, SummaryCase, SummaryCases, list};
use std::path::{Path, PathBuf};
use vmdeck_model::{outcome::Verdict, select::word_of_case};

/// How many runs are looked through.
const RUNS: usize = 300;

/// A case that passed in an earlier run.
#[derive(Clone, Debug)]
pub struct PassedCase {
    /// The folder of that run's record.
    pub record: PathBuf,
    /// The run.
    pub run: PastRun,
    /// How long the case took, in milliseconds.
    pub took_ms: u64,
    /// How long the boot of its guest took, in milliseconds; `None` = the guest had booted before.
    pub boot_ms: Option<u64>,
}

/// Returns the last run of a folder before that of `record` in which the case that this SELECT word names passed.
pub fn last_passed(folder: &Path, word: &str, record: &Path) -> Option<PassedCase> {
    let name = record.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let runs = list(folder);
    let began = runs.iter().find(|run| run.name == name).map(|run| run.began);
    let is_earlier = |run: &PastRun| run.name != name && began.is_none_or(|began| run.began <= began);
    let mut earlier = runs.into_iter().filter(|run| is_earlier(run) && run.tally.passed > 0).take(RUNS);
    earlier.find_map(|run| passed(folder, run, word))
}

fn passed(folder: &Path, run: PastRun, word: &str) -> Option<PassedCase> {
    let record = folder.join(&run.name);
    let bytes = vmdeck_files::read(&record.join("summary.json"), vmdeck_files::LARGE).ok()?;
    let summary: SummaryCases = serde_json::from_slice(&bytes).ok()?;
    let is_it = |case: &&SummaryCase| word_of_case(&case.suite, &case.case, &case.guest) == word;
    // Of several rounds the last one counts.
    let case = summary.cases.iter().rev().find(is_it).filter(|case| case.verdict == Verdict::Passed)?;
    let boot_ms =
        summary.guests.iter().find(|guest| guest.guest.as_ref() == Some(&case.guest)).and_then(|guest| guest.boot_ms);
    Some(PassedCase { took_ms: case.took_ms, boot_ms, record, run })
}
