//! The index of a folder of records: a line of JSON for each run that has ended, so that ten thousand are listed by reading one file.
//!
//! It only saves time: what is not in it is read from the record and added, what is damaged in it is left out, and what it names and is
//! not there any more is passed over. A database was the alternative; a list that is always read as a whole needs none.

use super::PastRun;
use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
};

/// The file in the folder.
const FILE: &str = "index.jsonl";
/// How many lines of what is gone the file may have before it is written anew.
const STALE: usize = 1000;

/// The index of a folder.
pub(super) struct Index {
    folder: PathBuf,
    known: HashMap<String, PastRun>,
    /// What was read and is not in the file yet.
    fresh: Vec<PastRun>,
    /// What was asked for and known.
    used: Vec<PastRun>,
}

impl Index {
    /// Reads the index of a folder, if there is one.
    pub(super) fn load(folder: &Path) -> Self {
        let text = vmdeck_files::read(&folder.join(FILE), vmdeck_files::LARGE).unwrap_or_default();
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
    pub(super) fn add(&mut self, run: PastRun) -> Option<PastRun> {
        self.fresh.push(run.clone());
        Some(run)
    }

    /// Writes what is new, or all of it where much in the file is of no use.
    pub(super) fn save(self) {
        if self.known.len() > STALE {
            let all: Vec<PastRun> = self.used.into_iter().chain(self.fresh).collect();
            let _ = vmdeck_files::write(&self.folder.join(FILE), lines(&all).as_bytes());
        } else if !self.fresh.is_empty() {
            append(&self.folder, &self.fresh);
        }
    }
}

/// Adds runs to the index of a folder. Where that cannot be, they are read from their records the next time.
pub(super) fn append(folder: &Path, runs: &[PastRun]) {
    let path = folder.join(FILE);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::list;
    use std::{fs, time::Instant};

    fn summary(folder: &Path, name: &str, exit: u8) {
        fs::create_dir_all(folder.join(name)).expect("mkdir");
        let tally = r#"{"passed":1,"failed":0,"infra":0,"skipped":0,"cancelled":0,"flaky":0}"#;
        let text = format!(r#"{{"run":"{}00000000","exit":{exit},"took_ms":5,"tally":{tally}}}"#, &name[16..]);
        fs::write(folder.join(name).join("summary.json"), text).expect("write");
    }

    #[test]
    fn ten_thousand_records_are_listed_by_one_file() {
        let home = tempfile::tempdir().expect("tempdir");
        let name = |n: usize| format!("20261121T{:02}{:02}{:02}-{n:08x}", n / 3600, n / 60 % 60, n % 60);
        (0..10_000).for_each(|n| summary(home.path(), &name(n), 0));
        assert_eq!(list(home.path()).len(), 10_000);
        let start = Instant::now();
        let all = list(home.path());
        assert!(all.is_sorted_by(|a, b| a.name >= b.name) && all.len() == 10_000);
        // An optimised build takes a fifth of it.
        assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
    }

    #[test]
    fn the_index_may_be_damaged_stale_or_missing() {
        let home = tempfile::tempdir().expect("tempdir");
        let (first, second) = ("20261121T080000-00000001", "20261122T080000-00000002");
        summary(home.path(), first, 0);
        assert_eq!(list(home.path())[0].began.to_rfc3339(), "2026-11-21T08:00:00+00:00");
        summary(home.path(), second, 1);
        let text = fs::read_to_string(home.path().join(FILE)).expect("index");
        fs::write(home.path().join(FILE), format!("{{\"name\":\n{text}\nnonsense")).expect("damaged");
        let names = || list(home.path()).into_iter().map(|run| run.name).collect::<Vec<_>>();
        assert_eq!(names(), [second, first]);
        fs::remove_dir_all(home.path().join(first)).expect("pruned");
        assert_eq!(names(), [second]);
        let gone: Vec<PastRun> = (0..1100)
            .map(|n| PastRun { name: format!("20250101T000000-{n:08x}"), ..list(home.path())[0].clone() })
            .collect();
        append(home.path(), &gone);
        assert_eq!(names(), [second]);
        assert_eq!(fs::read_to_string(home.path().join(FILE)).expect("index").lines().count(), 1, "written anew");
    }
}
