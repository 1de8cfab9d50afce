//! `vmdeck prune`: removes old records of runs. Records of runs that live, whose machines are still there, or that are pinned, stay.
//!
//! Only what looks like a record in the usual folder is touched, never what a link leads to.

use super::{Io, runs::RECORDS};
use crate::cli::PruneArgs;
use std::{
    collections::BTreeSet,
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_core::{
    engine::reap,
    history::{self, is_record_name},
    host::{clock, files, info},
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    plan::RecordBudget,
    quantity::{show_count, show_size},
};

/// How long a run that lives may write nothing before it has a journal.
const SILENT: Duration = Duration::from_mins(10);

/// A record that could go.
struct OldRecord {
    path: PathBuf,
    age: Duration,
    size: u64,
}

/// Keeps the newest records of a folder of vmdeck's own: a bisection makes many.
pub(super) fn keep_newest_in(folder: &Path, keep: usize) {
    // Of a shell that is open, or whose guest is still to be cleaned up.
    let used: BTreeSet<PathBuf> = reap::journal_states(&info::state_dir()).map(|state| state.dir).collect();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<(std::time::SystemTime, PathBuf)> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    all.retain(|(_, path)| !used.contains(path));
    all.sort();
    let old = all.len().saturating_sub(keep);
    for (_, path) in all.drain(..old) {
        let _ = files::remove_dir(&path);
    }
}

pub(super) fn run(args: &PruneArgs, io: &mut Io<'_>) -> Result<RunExit> {
    if args.keep.is_none() && args.days.is_none() && args.size.is_none() {
        return Err(Fault::user("cannot prune records").because("nothing says which of them may go").hint(
            "`--keep N` keeps the last N, `--days N` those of the last N days, `--size 10GiB` as many as fit; several together",
        ));
    }
    let budget = RecordBudget { count: args.keep, days: args.days, size: args.size };
    let all = measured(Path::new(RECORDS));
    let old = surplus(&all, budget);
    let size: u64 = old.iter().map(|record| record.size).sum();
    for record in &old {
        io.say(&format!("{} ({})", record.path.display(), show_size(record.size)));
    }
    let what = format!("{}, {}", show_count(old.len(), "record"), show_size(size));
    if old.is_empty() {
        io.say(&format!("nothing to prune in `{RECORDS}`"));
        return Ok(RunExit::Passed);
    }
    if args.list_only {
        io.say(&format!("would remove {what}"));
        return Ok(RunExit::Passed);
    }
    if !args.force {
        if !std::io::stdin().is_terminal() {
            return Err(Fault::user("cannot ask whether to remove these records")
                .because("standard input is not a terminal")
                .hint("use --force to remove them, or --list-only to list them"));
        }
        if !io.confirmed("Remove all of this?") {
            io.say("nothing was removed");
            return Ok(RunExit::Passed);
        }
    }
    let mut exit = RunExit::Passed;
    for record in old {
        if let Err(e) = files::remove_dir(&record.path) {
            io.warn(&Fault::host(format!("cannot remove `{}`", record.path.display())).because(e).render());
            exit = RunExit::Leftover;
        }
    }
    if exit == RunExit::Passed {
        io.say(&format!("removed {what}"));
    }
    Ok(exit)
}

/// Removes what is beyond the budget in the folder that a run's own record is in, where that is the usual one; never that record itself.
pub(super) fn keep_within(own: &Path, budget: RecordBudget) {
    let Ok(folder) = std::path::absolute(RECORDS) else { return };
    if budget.is_unlimited() || own.parent() != Some(&folder) {
        return;
    }
    let all = if budget.size.is_some() { measured(&folder) } else { records(&folder) };
    for record in surplus(&all, budget).into_iter().filter(|record| record.path != own) {
        // One that stays costs only space.
        let _ = files::remove_dir(&record.path);
    }
}

/// Returns the records of a folder, newest first, with their sizes.
fn measured(folder: &Path) -> Vec<OldRecord> {
    let all = records(folder).into_iter();
    all.map(|record| OldRecord { size: files::disk_usage(&record.path), ..record }).collect()
}

/// Returns the records that are beyond the budget, the oldest last.
fn surplus(all: &[OldRecord], budget: RecordBudget) -> Vec<&OldRecord> {
    let mut total = 0;
    let mut out = Vec::new();
    for (position, record) in all.iter().enumerate() {
        total += record.size;
        let by_count = budget.count.is_some_and(|count| position >= count as usize);
        let by_age = budget.days.is_some_and(|days| record.age > Duration::from_hours(24 * u64::from(days)));
        let by_size = budget.size.is_some_and(|size| total > size);
        if by_count || by_age || by_size {
            out.push(record);
        }
    }
    out
}

/// Returns the records of a folder, newest first, without those that are in use; their sizes are not known yet.
fn records(folder: &Path) -> Vec<OldRecord> {
    let used: BTreeSet<PathBuf> = reap::journal_states(&info::state_dir()).map(|state| state.dir).collect();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut out: Vec<OldRecord> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| entry.file_name().to_str().is_some_and(is_record_name))
        .filter_map(|entry| {
            let path = entry.path();
            if history::is_pinned(&path) {
                return None;
            }
            if std::path::absolute(&path).is_ok_and(|full| used.contains(&full)) {
                return None;
            }
            let written = fs::symlink_metadata(path.join("events.jsonl")).ok()?.modified().ok()?;
            let age = clock::system().duration_since(written).unwrap_or_default();
            // One that waits for the lock has no journal yet, and tells of its waiting from time to time.
            let has_ended = path.join("summary.json").exists() || age > SILENT;
            has_ended.then_some(OldRecord { path, age, size: 0 })
        })
        .collect();
    // The name begins with the time.
    out.sort_by(|a, b| b.path.cmp(&a.path));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_alone_is_enough_and_the_newest_stay() {
        let record = |n: u64| OldRecord { path: format!("r{n}").into(), age: Duration::from_hours(24 * n), size: 10 };
        let all: Vec<OldRecord> = (0..5).map(record).collect();
        let gone = |budget: RecordBudget| -> Vec<String> {
            surplus(&all, budget).iter().map(|record| record.path.display().to_string()).collect()
        };
        assert_eq!(gone(RecordBudget { count: Some(3), ..RecordBudget::default() }), ["r3", "r4"]);
        assert_eq!(gone(RecordBudget { days: Some(3), ..RecordBudget::default() }), ["r4"]);
        assert_eq!(gone(RecordBudget { size: Some(20), ..RecordBudget::default() }), ["r2", "r3", "r4"]);
        assert_eq!(gone(RecordBudget { count: Some(5), size: Some(40), ..RecordBudget::default() }), ["r4"]);
    }
}
