//! `vmdeck.quarantine.toml`: the tests whose failure is known, with the reason and the last day of each.
//!
//! What is excused by it, and what never is, the engine decides.

use chrono::NaiveDate;
use serde::Deserialize;
use std::path::Path;
use toml::Spanned;
use vmdeck_core::host::clock;
use vmdeck_model::{
    error::{Fault, Result},
    ids::GuestId,
    plan::Setup,
    quarantine::{MOST_DAYS, QUARANTINE_FILE, Quarantine, QuarantinedTest},
    select::Selector,
};

/// In how many days before its end a person is told of it.
const SOON: i64 = 7;
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenList {
    #[serde(default)]
    test: Vec<WrittenTest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTest {
    name: Spanned<String>,
    on: Option<String>,
    issue: String,
    until: Spanned<toml::Value>,
}

/// A test of the file, whose time may be over.
pub(super) struct QuarantineEntry {
    pub(super) test: QuarantinedTest,
    pub(super) on: Option<String>,
    /// Where in the text its last day is written.
    pub(super) until_at: std::ops::Range<usize>,
}

pub(super) fn today() -> NaiveDate {
    clock::utc().date_naive()
}

/// Returns the tests that are excused in runs of a config, and what a person should know of them.
pub(super) fn of_setup(setup: &Setup) -> Result<(Quarantine, Vec<String>)> {
    let path = setup.folder.join(QUARANTINE_FILE);
    let (list, _) = read(&path)?;
    let (today, mut notes) = (today(), Vec::new());
    let mut out = Vec::new();
    for QuarantineEntry { test, on, .. } in list {
        let place = format!("{QUARANTINE_FILE}:{}", test.line);
        let left = (test.until - today).num_days();
        let (name, issue, until) = (&test.name, &test.issue, test.until);
        if left < 0 {
            notes.push(format!("{place}: `{name}` is not excused any more: its time ended on {until} ({issue})"));
            continue;
        }
        if left <= SOON {
            notes.push(format!("{place}: `{name}` is excused until {until} only ({issue})"));
        }
        if !is_about_any(setup, &test.cases) {
            let on = on.as_ref().map(|on| format!(", with `on = \"{on}\"`,")).unwrap_or_default();
            notes.push(format!("{place}: `{name}`{on} is no case that runs in a guest of the config"));
        }
        out.push(test);
    }
    Ok((Quarantine(out), notes))
}

pub(super) fn is_about_any(setup: &Setup, cases: &Selector) -> bool {
    let mut all = setup.suites.iter().flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)));
    let guests = setup.machine_names();
    let guests: Vec<&GuestId> = guests.iter().chain(setup.guests.iter().map(|guest| &guest.key)).collect();
    all.any(|(suite, case)| {
        cases.matches(&suite.id, &case.id, &guests) || cases.matches_below(&suite.id, &case.id, &guests)
    })
}

/// Reads the file; one that is not there is empty. Every mistake is told with its line.
pub(super) fn read(path: &Path) -> Result<(Vec<QuarantineEntry>, String)> {
    let cannot = || Fault::user(format!("cannot use `{}`", path.display()));
    let text = match vmdeck_files::read_text(path, vmdeck_files::SMALL) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), String::new())),
        Err(e) => return Err(cannot().because(e)),
    };
    let written: WrittenList = toml::from_str(&text).map_err(|e| {
        let line = e.span().map(|span| line_of(&text, span.start));
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let hint = "each [[test]] has `name`, `issue` and `until`, and perhaps `on`";
        cannot().because(format!("{place}{}", e.message())).hint(hint)
    })?;
    let (mut out, mut mistakes) = (Vec::new(), Vec::new());
    for test in written.test {
        let line = line_of(&text, test.name.span().start);
        match listed(test, line) {
            Ok(test) => out.push(test),
            Err(why) => mistakes.push(format!("line {line}: {why}")),
        }
    }
    if mistakes.is_empty() { Ok((out, text)) } else { Err(cannot().because(mistakes.join("; "))) }
}

fn listed(written: WrittenTest, line: usize) -> Result<QuarantineEntry, String> {
    let WrittenTest { name, on, issue, until } = written;
    let until_at = until.span();
    let name = name.into_inner();
    let until = until.into_inner();
    let until = until.as_str().map_or_else(|| until.to_string(), str::to_owned);
    let until = day(&until)?;
    if issue.trim().is_empty() {
        return Err(format!("`{name}` has no `issue`: say where its failure is explained"));
    }
    let (cases, subtest) = QuarantinedTest::parse(&name, on.as_deref())?;
    Ok(QuarantineEntry { test: QuarantinedTest { name, cases, subtest, issue, until, line }, on, until_at })
}

/// Reads a day that is not too far ahead.
pub(super) fn day(text: &str) -> Result<NaiveDate, String> {
    let day = NaiveDate::parse_from_str(text.trim(), "%Y-%m-%d");
    let day = day.map_err(|_| format!("`{text}` is no day: write it like 2026-12-31"))?;
    if (day - today()).num_days() > MOST_DAYS {
        return Err(format!("{day} is more than {MOST_DAYS} days ahead"));
    }
    Ok(day)
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}
