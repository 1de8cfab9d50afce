//! The records of earlier runs in a folder: what each came to, and which one a person means.
//!
//! Thousands are listed by an index (`index.rs`); a single one is read from its `summary.json`, or from its events where the run died.

mod index;
mod passed;
mod past_run;
mod trends;

pub use passed::{PassedCase, last_passed};
pub use past_run::PastRun;
pub use trends::{PastBoot, PastCase, Trends, trends, trends_before};

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead},
    path::{Path, PathBuf},
};
use vmdeck_model::{
    error::{Fault, Result},
    event::{Event, LINE_MAX},
    exit::RunExit,
    ids::{CaseId, GuestId, SuiteId},
    outcome::{Tally, Verdict},
    quantity::show_count,
    run_view::{RevisionView, RunView},
};

/// The file in a record that says that it stays.
const PINNED: &str = "pinned";
/// The fewest digits by which a run can be named.
const DIGITS: usize = 4;

/// Returns the runs whose records are in a folder, the newest first. What was read is written to the folder's index, so that it is
/// read once.
pub fn list(folder: &Path) -> Vec<PastRun> {
    let mut index = index::RunIndex::load(folder);
    let mut runs: Vec<PastRun> = names(folder)
        .into_iter()
        .filter_map(|name| index.get(&name).or_else(|| Some(index.add(read(folder, &name)?))))
        .collect();
    index.save();
    // The names say it to the second. A merged one begins with the last of its runs, and is newer than that.
    let key = |run: &PastRun| (run.began, run.origins, run.name.clone());
    runs.sort_by_key(|run| std::cmp::Reverse(key(run)));
    runs
}

/// Returns the record of the last run that has tested something.
pub fn last_tested(folder: &Path) -> Option<PathBuf> {
    let tested = |run: &PastRun| {
        let Tally { passed, failed, infra, flaky, .. } = run.tally;
        passed + failed + infra + flaky > 0
    };
    list(folder).into_iter().find(tested).map(|run| folder.join(run.name))
}

/// Adds a run that has just ended to the index of the folder that its record is in.
pub fn note(record: &Path) {
    if let (Some(folder), Some(name)) = (record.parent(), record.file_name().and_then(|name| name.to_str()))
        && is_record_name(name)
        && let Some(run) = read(folder, name)
    {
        index::append(folder, std::slice::from_ref(&run));
    }
}

/// Returns the record that a person means by a word: a folder, the name of a record, the beginning of a run's id, or without a word the
/// last run.
pub fn find(folder: &Path, word: Option<&str>) -> Result<PathBuf> {
    let all = names(folder);
    let nothing = || Fault::user("cannot find the run");
    let Some(word) = word else {
        let last = list(folder).into_iter().chain(unended(folder)).max_by_key(|run| run.began).map(|run| run.name);
        let last = last.or_else(|| all.iter().max().cloned()).ok_or_else(|| {
            nothing().because(format!("there is no record in `{}`", folder.display())).hint("`vmdeck --ci` makes one")
        })?;
        return Ok(folder.join(last));
    };
    let path = Path::new(word);
    if path.join("events.jsonl").is_file() {
        return Ok(path.to_owned());
    }
    let is_id = word.len() >= DIGITS && word.bytes().all(|b| b.is_ascii_hexdigit());
    let is_it = |name: &&String| {
        let id = name.rsplit('-').next().unwrap_or_default();
        name.as_str() == word || (is_id && (id.starts_with(word) || word.starts_with(id)))
    };
    let found: Vec<&String> = all.iter().filter(is_it).collect();
    match found[..] {
        [name] => Ok(folder.join(name)),
        [] => Err(nothing()
            .because(format!("`{word}` is neither the folder of a record nor the beginning of a run's id"))
            .hint("`vmdeck runs` lists them")),
        _ => Err(nothing()
            .because(format!("`{word}` begins the ids of {}", show_count(found.len(), "run")))
            .hint("give more digits; `vmdeck runs` lists them")),
    }
}

/// Returns whether a record is to stay whatever is pruned.
pub fn is_pinned(record: &Path) -> bool {
    record.join(PINNED).symlink_metadata().is_ok()
}

/// Notes that a record is to stay, or not.
pub fn pin(record: &Path, on: bool) -> io::Result<()> {
    let file = record.join(PINNED);
    match (on, is_pinned(record)) {
        (true, false) => vmdeck_files::create_new(&file).map(drop),
        (false, true) => fs::remove_file(file),
        _ => Ok(()),
    }
}

/// Returns the state of a run at the end of its record.
pub fn view(record: &Path) -> io::Result<RunView> {
    let mut view = RunView::default();
    each_event(record, &mut |event| view.apply(event))?;
    Ok(view)
}

/// Hands on every event of a record but its lines of output.
pub fn each_event(record: &Path, take: &mut dyn FnMut(&Event)) -> io::Result<()> {
    let mut lines = io::BufReader::new(vmdeck_files::open(&record.join("events.jsonl"))?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut lines, LINE_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        // Lines of output change nothing; a torn last line, or one of a newer version, is left out.
        if memchr::memmem::find(&line, br#""kind":"output""#).is_none()
            && let Ok(event) = serde_json::from_slice::<Event>(&line)
        {
            take(&event);
        }
    }
}

/// Returns whether a name is one that a run gives to its record: `20261121T080000-5bba890d`.
pub fn is_record_name(name: &str) -> bool {
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let Some((time, id)) = name.split_once('-') else { return false };
    let is_time = time.split_once('T').is_some_and(|(day, clock)| digits(day, 8) && digits(clock, 6));
    is_time && id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Returns the names of the records in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_record_name(name)).collect()
}

/// Reads what a record came to; `None` = it is not over, as far as it tells, or there is none.
fn read(folder: &Path, name: &str) -> Option<PastRun> {
    let bytes = vmdeck_files::read(&folder.join(name).join("summary.json"), vmdeck_files::LARGE).ok()?;
    let summary: SummaryFile = serde_json::from_slice(&bytes).ok()?;
    Some(PastRun {
        name: name.to_owned(),
        began: summary.began.or_else(|| time_in(name))?,
        run: summary.run,
        exit: summary.exit,
        took_ms: summary.took_ms,
        tally: summary.tally,
        selection: summary.selection,
        config: summary.config,
        revision: summary.revision,
        reused: summary.guests.iter().any(|guest| guest.reused.is_some()),
        origins: summary.origins,
    })
}

/// Returns the names of the records of a folder that have no summary, the newest first: their runs are in progress, or have died.
pub fn unended_names(folder: &Path) -> Vec<String> {
    let is_open = |name: &String| !folder.join(name).join("summary.json").exists();
    let mut names: Vec<String> = names(folder).into_iter().filter(is_open).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    names
}

/// Returns the runs of a folder that have no summary, as their events tell.
pub fn unended(folder: &Path) -> Vec<PastRun> {
    let of = |name: String| {
        let view = view(&folder.join(&name)).ok()?;
        Some(PastRun {
            began: view.began.or_else(|| time_in(&name))?,
            run: view.run?,
            name,
            exit: None,
            took_ms: view.now_ms,
            tally: view.tally,
            selection: view.selection,
            config: view.config,
            revision: view.revision,
            reused: view.guests.values().any(|guest| guest.reused.is_some()),
            origins: view.origins,
        })
    };
    unended_names(folder).into_iter().filter_map(of).collect()
}

/// Returns the time in the name of a record.
fn time_in(name: &str) -> Option<DateTime<Utc>> {
    let time = name.split_once('-')?.0;
    NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%S").ok().map(|time| time.and_utc())
}

/// What is read of `summary.json`.
#[derive(Deserialize)]
struct SummaryFile {
    run: String,
    exit: Option<RunExit>,
    took_ms: u64,
    tally: Tally,
    began: Option<DateTime<Utc>>,
    #[serde(default)]
    selection: Vec<String>,
    config: Option<String>,
    revision: Option<RevisionView>,
    #[serde(default)]
    origins: usize,
    #[serde(default)]
    guests: Vec<SummaryGuest>,
}

#[derive(Deserialize)]
struct SummaryCases {
    cases: Vec<SummaryCase>,
    #[serde(default)]
    guests: Vec<SummaryGuest>,
}

#[derive(Deserialize)]
struct SummaryCase {
    guest: GuestId,
    suite: SuiteId,
    case: CaseId,
    verdict: Verdict,
    #[serde(default)]
    took_ms: u64,
}

#[derive(Deserialize)]
struct SummaryGuest {
    guest: Option<GuestId>,
    boot_ms: Option<u64>,
    #[serde(default)]
    phases_ms: BTreeMap<String, u64>,
    reused: Option<u32>,
}

#[cfg(test)]
mod tests;
