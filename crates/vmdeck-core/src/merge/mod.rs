//! Records of several runs made into one: those of the shards of a run, or of machines that each had a part of it.
//!
//! The events of the records are believed and nothing else. What was planned and is in none of them is infra: a part that is lost
//! never makes the whole green. The same records give the same files, whatever their order and wherever they lie.

mod check;
mod join;
mod lines;
mod logs;
mod options;
mod source;
pub mod times_file;

pub use options::MergeOptions;

use crate::report::Fanout;
use sha2::{Digest as _, Sha256};
use source::SourceRecord;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    digest::hex,
    error::{Fault, Result},
    exit::RunExit,
    ids::RunId,
    shard::RunOrigin,
    times::RunTimes,
};

/// What came of a merge.
#[derive(Debug)]
pub struct MergeOutcome {
    /// The exit code that one run would have had.
    pub exit: RunExit,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The reports that could not be written.
    pub lost: Vec<String>,
}

/// Records that belong together, read and checked.
pub struct Merge {
    sources: Vec<SourceRecord>,
    options: MergeOptions,
    run: RunId,
}

/// Returns the digest of what was selected in all: the names of its cases, `guest/suite/case`, how often each is run, and the digest
/// of the config.
pub fn plan_digest(names: &[String], repeat: u32, config: &str) -> String {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort();
    let mut sum = Sha256::new();
    sum.update(format!("{repeat}\n{config}\n"));
    for name in names {
        sum.update(format!("{name}\n"));
    }
    hex(&sum.finalize())
}

impl Merge {
    /// Reads records; an error names those that cannot be read or do not belong together.
    pub fn of(records: &[PathBuf], options: MergeOptions) -> Result<Self> {
        let mut sources = records.iter().map(|record| SourceRecord::read(record)).collect::<Result<Vec<_>>>()?;
        check::check(&mut sources, &options)?;
        let mut sum = Sha256::new();
        for source in &sources {
            sum.update(&source.sha256);
        }
        let bits = sum.finalize().iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        Ok(Self { sources, options, run: RunId::from_bits(bits) })
    }

    /// Reads records that need not belong together.
    pub fn each(records: &[PathBuf]) -> Result<Self> {
        let sources = records.iter().map(|record| SourceRecord::read(record)).collect::<Result<Vec<_>>>()?;
        Ok(Self { sources, options: MergeOptions::default(), run: RunId::from_bits(0) })
    }

    /// Returns the name of the merged record: when the last of its runs began, and an id that follows from all of them.
    pub fn record_name(&self) -> String {
        let began = self.sources.iter().map(|source| source.began_ms).max().unwrap_or_default();
        let began = chrono::DateTime::from_timestamp_millis(began).unwrap_or_default();
        format!("{}-{}", began.format("%Y%m%dT%H%M%S"), self.run.short())
    }

    /// Returns every run whose record is in it, those from which a record was merged before included.
    pub fn origins(&self) -> Vec<RunOrigin> {
        source::runs(&self.sources)
    }

    /// Returns whether the code had changes in some of them that no commit has: nobody has compared those.
    pub fn is_dirty(&self) -> bool {
        let dirty = |source: &SourceRecord| source.view.revision.as_ref().is_some_and(|revision| revision.dirty);
        self.sources.len() > 1 && self.sources.iter().any(dirty)
    }

    /// Returns what each record tells of times, the oldest first.
    pub fn times(&self) -> Vec<&RunTimes> {
        let mut sources: Vec<&SourceRecord> = self.sources.iter().collect();
        sources.sort_by_key(|source| source.began_ms);
        sources.into_iter().map(|source| &source.times).collect()
    }

    /// Writes the merged record into a folder that is there and empty but for what the reports make; each event goes to the reports as
    /// well. An error says that it was asked to stop.
    pub fn write(&self, out: &Path, fanout: &mut Fanout, stop: &CancellationToken) -> Result<MergeOutcome> {
        let cannot = |e: std::io::Error| Fault::host(format!("cannot write `{}`", out.display())).because(e);
        let notes = logs::copy(&self.sources, out, self.options.link, stop).map_err(cannot)?;
        let mut lost = Vec::new();
        let exit = join::write(&self.sources, (&self.run, self.options.expect), out, (fanout, stop), &mut lost)?;
        let origins =
            serde_json::to_string_pretty(&self.origins()).map_err(|e| Fault::bug("cannot write JSON").because(e))?;
        vmdeck_files::write(&out.join("origins.json"), format!("{origins}\n").as_bytes()).map_err(cannot)?;
        Ok(MergeOutcome { exit, notes, lost })
    }
}
