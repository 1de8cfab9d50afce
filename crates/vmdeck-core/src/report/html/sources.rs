//! What all parts of the page know.

use crate::report::plan_index::PlanIndex;
use std::{cell::LazyCell, collections::BTreeMap, path::PathBuf};
use vmdeck_model::{
    outcome::Verdict,
    quantity::show_duration,
    run_view::{EndedCase, RunView},
    secret::Redactor,
};

/// How each case ended in earlier runs, by the word that selects it; the newest is the last.
pub type PastVerdicts = BTreeMap<String, Vec<Verdict>>;

/// The same, which is not read before it is asked for.
pub(super) type LatePast = LazyCell<PastVerdicts, Box<dyn FnOnce() -> PastVerdicts + Send>>;

/// What the page knows besides the fold of the events.
pub(super) struct PageSources {
    /// The folder of the record.
    pub(super) record: PathBuf,
    pub(super) index: PlanIndex,
    pub(super) past: LatePast,
    /// Takes the secrets of the run out of its consoles, which are raw in the record; without it they are not shown.
    pub(super) redactor: Option<Redactor>,
}

/// Returns the last end of each case in each guest, in the order of the run.
pub(super) fn newest(view: &RunView) -> Vec<&EndedCase> {
    let mut last = BTreeMap::new();
    for (at, case) in view.cases.iter().enumerate() {
        last.insert((&case.guest, &case.suite, &case.case, case.round), at);
    }
    let mut places: Vec<usize> = last.into_values().collect();
    places.sort_unstable();
    places.into_iter().map(|at| &view.cases[at]).collect()
}

/// Returns a time as people read it.
pub(super) fn time(ms: u64) -> String {
    show_duration(std::time::Duration::from_millis(ms))
}
