//! What a run came to, as its record tells.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use vmdeck_model::{exit::RunExit, ids::short_run, outcome::Tally, run_view::RevisionView};

/// A run that has ended, or died, as its record tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRun {
    /// The name of the record's folder.
    pub name: String,
    /// The id of the run.
    pub run: String,
    /// When it began.
    pub began: DateTime<Utc>,
    /// How it ended; `None` = it did not come to its end.
    pub exit: Option<RunExit>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The verdicts of its cases.
    pub tally: Tally,
    /// The words that selected its cases; none = all.
    pub selection: Vec<String>,
    /// The config file.
    pub config: Option<String>,
    /// The revision of the code.
    pub revision: Option<RevisionView>,
    /// Whether a guest had a machine that was kept by an earlier run.
    pub reused: bool,
    /// From how many records it was merged; zero = it is a run's own.
    #[serde(default)]
    pub origins: usize,
}

impl PastRun {
    /// Returns the first eight digits of the run's id.
    pub fn short(&self) -> &str {
        short_run(&self.run)
    }
}
