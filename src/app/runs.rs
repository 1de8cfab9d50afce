//! `vmdeck runs`: the records of this folder, and which of them a word means.
//!
//! What is read of them is `history`'s.

use super::{Io, control};
use crate::cli::RunsArgs;
use serde::Serialize;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_core::{
    engine::reap,
    history::{self, PastRun},
    host::{clock, info},
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    quantity::{show_count, show_duration},
    text::Clean,
};
use vmdeck_tui::past_runs::PastRunRow;

/// The folder in which records are kept by default.
pub(super) const RECORDS: &str = ".vmdeck/runs";

/// What a run is doing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum RunState {
    Running,
    Ended,
    /// Its processes are gone, and it has no end.
    Died,
}

/// A run with its state.
#[derive(Serialize)]
struct ListedRun {
    state: RunState,
    pinned: bool,
    #[serde(flatten)]
    run: PastRun,
}

/// Returns the record that a word means, among those of this folder.
pub(super) fn find(word: Option<&str>) -> Result<PathBuf> {
    history::find(Path::new(RECORDS), word)
}

/// Returns the record of the run in progress that a word means: without one, the only one of this folder, or else of this host.
pub(super) fn in_progress(word: Option<&str>) -> Result<PathBuf> {
    let none = || Fault::user("cannot join a run");
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    if word.is_some() {
        let record = absolute(find(word)?);
        if control::answers(&record) {
            return Ok(record);
        }
        let hint = format!("`vmdeck replay {}` shows it", record.display());
        return Err(none().because(format!("the run of `{}` is not in progress", record.display())).hint(hint));
    }
    let folder = Path::new(RECORDS);
    let here = history::unended_names(folder).into_iter().map(|name| absolute(folder.join(name)));
    let mut found: Vec<PathBuf> = here.filter(|record| control::answers(record)).collect();
    if found.is_empty() {
        found = reap::live_records(&info::state_dir()).filter(|record| control::answers(record)).collect();
    }
    match &found[..] {
        [record] => Ok(record.clone()),
        [] => {
            Err(none().because("none is in progress").hint("`vmdeck replay` opens the last one, `vmdeck` starts one"))
        }
        several => {
            let list: Vec<String> = several.iter().map(|record| record.display().to_string()).collect();
            Err(none().because(format!("several are in progress: {}", list.join(", "))).hint("name one"))
        }
    }
}

pub(super) fn run(args: &RunsArgs, io: &mut Io<'_>) -> Result<RunExit> {
    for (word, on) in [(&args.pin, true), (&args.unpin, false)] {
        if let Some(word) = word {
            let record = find(Some(word))?;
            let cannot = |e| Fault::host(format!("cannot change the record `{}`", record.display())).because(e);
            history::pin(&record, on).map_err(cannot)?;
            let how = if on { "stays whatever is pruned" } else { "may be pruned" };
            io.say(&format!("{}: {how}", record.display()));
            return Ok(RunExit::Passed);
        }
    }
    let mut rows = rows(Path::new(RECORDS));
    let count = rows.len();
    if !args.all {
        rows.truncate(args.last);
    }
    if args.json {
        io.say(&serde_json::to_string_pretty(&rows).unwrap_or_default());
        return Ok(RunExit::Passed);
    }
    if rows.is_empty() {
        io.say(&format!("no runs in `{RECORDS}`"));
        return Ok(RunExit::Passed);
    }
    let width = rows.iter().map(|row| result(row).len()).max().unwrap_or(0).max(32);
    io.say(&format!("{:<9} {:<19} {:>8}  {:<11} {:<width$} {}", "RUN", "BEGAN", "TOOK", "CODE", "RESULT", "WHAT"));
    for row in &rows {
        io.say(&line(row, width));
    }
    if count > rows.len() {
        io.say(&format!("and {} more; --all lists them", show_count(count - rows.len(), "run")));
    }
    Ok(RunExit::Passed)
}

/// Returns the runs of a folder for a list, the newest first.
pub(super) fn past_runs(folder: &Path) -> Vec<PastRunRow> {
    let row = |row: ListedRun| PastRunRow {
        dir: std::path::absolute(folder.join(&row.run.name)).unwrap_or_default(),
        line: short_line(&row),
        exit: row.run.exit,
        is_running: row.state == RunState::Running,
    };
    rows(folder).into_iter().map(row).collect()
}

/// Returns the runs of a folder, the newest first.
fn rows(folder: &Path) -> Vec<ListedRun> {
    let live: BTreeSet<PathBuf> = reap::live_records(&info::state_dir()).collect();
    let state = |run: &PastRun| {
        let record = std::path::absolute(folder.join(&run.name)).unwrap_or_default();
        if live.contains(&record) { RunState::Running } else { RunState::Died }
    };
    let open = history::unended(folder).into_iter().map(|run| (state(&run), run));
    let ended = history::list(folder).into_iter().map(|run| (RunState::Ended, run));
    let row = |(state, run): (RunState, PastRun)| ListedRun {
        pinned: history::is_pinned(&folder.join(&run.name)),
        state,
        run,
    };
    let mut rows: Vec<ListedRun> = open.chain(ended).map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.run.began));
    rows
}

/// Returns which run it is, in words: its id, when it was, and the revision of the code.
pub(super) fn which(run: &PastRun) -> String {
    let began = run.began.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M");
    let code = run.revision.as_ref().map(|code| format!(", at {code}")).unwrap_or_default();
    Clean::from_text(&format!("run {} of {began}{code}", run.short())).into_string()
}

fn line(row: &ListedRun, width: usize) -> String {
    let run = &row.run;
    let code = run.revision.as_ref().map_or("-".to_owned(), ToString::to_string);
    let began = run.began.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S");
    let (took, result, what) = (took(row), result(row), what(row));
    // A record may be anybody's.
    Clean::from_text(&format!("{:<9} {began} {took:>8}  {code:<11} {result:<width$} {what}", run.short())).into_string()
}

/// Returns a run in one line for a screen that may have 80 columns: how it ended comes before on which code.
fn short_line(row: &ListedRun) -> String {
    let run = &row.run;
    let code = run.revision.as_ref().map_or("-".to_owned(), ToString::to_string);
    let began = run.began.with_timezone(&chrono::Local).format("%m-%d %H:%M");
    let (took, result, what) = (took(row), result(row), what(row));
    Clean::from_text(&format!("{} {began} {took:>6}  {result:<28} {code:<11} {what}", run.short())).into_string()
}

fn result(ListedRun { state, run, .. }: &ListedRun) -> String {
    match (state, run.exit) {
        (RunState::Running, _) => format!("running: {}", run.tally),
        (_, Some(exit)) => format!("exit {}: {}", exit.code(), run.tally),
        _ => format!("died: {}", run.tally),
    }
}

fn what(ListedRun { pinned, run, .. }: &ListedRun) -> String {
    let mut what = if run.selection.is_empty() { "everything".to_owned() } else { run.selection.join(" ") };
    let merged = format!("merged from {}", show_count(run.origins, "record"));
    let marks = [(run.origins > 0, merged.as_str()), (run.reused, "in a reused guest"), (*pinned, "pinned")];
    for (is, word) in marks {
        if is {
            what.push_str(&format!(" ({word})"));
        }
    }
    what
}

fn took(ListedRun { state, run, .. }: &ListedRun) -> String {
    let since = || u64::try_from((clock::utc() - run.began).num_milliseconds()).unwrap_or_default();
    show_duration(Duration::from_millis(if *state == RunState::Running { since() } else { run.took_ms }))
}
