//! The index of a folder of records: a line of JSON for each run that has ended, so that ten thousand are listed by reading one file.
//!
//! It only saves time: what is not in it is read from the record and added, what is damaged in it is left out, and what it names and is
//! not there any more is passed over. A database was the alternative; a list that is always read as a whole needs none.

use super::past_run::PastRun;
use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
};

/// How the index ends that lies beside a folder of records: in it are records and nothing else.
const SUFFIX: &str = "jsonl";
/// How many lines of what is gone the file may have before it is written anew.
const STALE: usize = 1000;

/// The index of a folder.
pub(super) struct RunIndex {
    folder: PathBuf,
    known: HashMap<String, PastRun>,
    /// What was read and is not in the file yet.
    fresh: Vec<PastRun>,
    /// What was asked for and known.
    used: Vec<PastRun>,
}

impl RunIndex {
    /// Reads the index of a folder, if there is one.
    pub(super) fn load(folder: &Path) -> Self {
        let text = vmdeck_files::read(&path(folder), vmdeck_files::LARGE).unwrap_or_default();
        let lines = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<PastRun>(line).ok());
        let known = lines.map(|run| (run.name.clone(), run)).collect();
        Self { folder: folder.to_owned(), known, fresh: Vec::new(), used: Vec::new() }
    }

    /// Returns what is known of the record of this name.
    pub(super) fn get(&mut self, name: &str) -> Option<PastRun> {
        let run = self.known.remove(name)?;
        self.used.push(run.clone());
        Some(run)
    }

    /// Adds what a record came to.
    pub(super) fn add(&mut self, run: PastRun) -> PastRun {
        self.fresh.push(run.clone());
        run
    }

    /// Writes what is new, or all of it where much in the file is of no use.
    pub(super) fn save(self) {
        if self.known.len() > STALE {
            let all: Vec<PastRun> = self.used.into_iter().chain(self.fresh).collect();
            let _ = vmdeck_files::write(&path(&self.folder), lines(&all).as_bytes());
        } else if !self.fresh.is_empty() {
            append(&self.folder, &self.fresh);
        }
    }
}

/// Returns the index of a folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.with_extension(SUFFIX)
}

/// Adds runs to the index of a folder. Where that cannot be, they are read from their records the next time.
pub(super) fn append(folder: &Path, runs: &[PastRun]) {
    let path = path(folder);
    let opened = vmdeck_files::open_for_append(&path).or_else(|_| vmdeck_files::create_new(&path));
    // In one piece: others may add theirs at the same time.
    let _ = opened.and_then(|mut file| file.write_all(lines(runs).as_bytes()));
}

fn lines(runs: &[PastRun]) -> String {
    let mut out = String::new();
    for line in runs.iter().filter_map(|run| serde_json::to_string(run).ok()) {
        out.push_str(&line);
        out.push('\n');
    }
    out
}
