//! The text of pytest: with `-v` a line for each test, always a summary of what failed, and a last line with the counts.

use crate::{
    line::Line,
    place::{CodePlace, leading_number},
    reader::LineReader,
    sheet::{Entry, Id, Sheet},
    words,
};
use std::collections::{HashMap, HashSet};
use vmdeck_model::subtest::{SubtestStatus, SubtestTally};

/// The words behind a test's id.
const STATUS: [(&str, SubtestStatus); 6] = [
    ("PASSED", SubtestStatus::Passed),
    ("FAILED", SubtestStatus::Failed),
    ("ERROR", SubtestStatus::Error),
    ("SKIPPED", SubtestStatus::Skipped),
    ("XFAIL", SubtestStatus::Xfail),
    ("XPASS", SubtestStatus::Xpass),
];

/// Which part of the output is being read.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum PytestPart {
    #[default]
    Tests,
    /// The failures in full.
    Failures,
    /// The short summary.
    Summary,
    /// The last line has come.
    Closed,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Pytest {
    part: PytestPart,
    /// The tests that have ended otherwise than well, by their ids.
    red: HashMap<String, Option<Id>>,
    /// The id of the test whose result came last, which may still turn into an error.
    last: Option<(String, Option<Id>)>,
    /// The ids of those that are tried again.
    again: HashSet<String>,
    /// The test of whose failure is being told.
    told: String,
    /// Whether the tests have lines of their own.
    has_lines: bool,
}

fn entry(id: &str) -> Entry {
    let (file, name) = id.split_once("::").unwrap_or((id, ""));
    let mut entry = Entry::new(file, "::", name);
    if name.is_empty() {
        entry.class = None;
    }
    entry.place = CodePlace::new(file, None);
    entry
}

/// Returns a test's id, the word behind it, and the reason in brackets.
fn result(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim_end();
    // How far it is: `[ 33%]`.
    let text = match text.rsplit_once('[') {
        Some((before, rest)) if rest.ends_with("%]") && before.ends_with(' ') => before.trim_end(),
        _ => text,
    };
    if let Some(worker) = text.strip_prefix("[gw") {
        // By workers: `[gw0] [ 33%] PASSED id`.
        let rest = worker.split_once("] ")?.1;
        let rest = rest.strip_prefix('[').and_then(|rest| rest.split_once("%] ")).map_or(rest, |(_, rest)| rest);
        let (word, id) = rest.split_once(' ')?;
        let is_word = word == "RERUN" || STATUS.iter().any(|(known, _)| *known == word);
        return is_word.then_some((id.trim(), word, ""));
    }
    let words = STATUS.iter().map(|(word, _)| *word).chain(["RERUN"]);
    let mut best: Option<(usize, &str)> = None;
    for word in words {
        let Some(at) = text.rfind(&format!(" {word}")) else { continue };
        let rest = &text[at + 1 + word.len()..];
        let is_end = rest.is_empty() || (rest.starts_with(" (") && rest.ends_with(')'));
        if is_end && best.is_none_or(|(before, _)| at < before) {
            best = Some((at, word));
        }
    }
    let (at, word) = best?;
    let id = text[..at].trim_end();
    let why = text[at + 1 + word.len()..].trim().trim_start_matches('(').trim_end_matches(')');
    is_id(id).then_some((id, word, why))
}

fn is_id(text: &str) -> bool {
    text.split_once("::").is_some_and(|(file, _)| !file.is_empty() && !file.contains(": "))
}

/// Returns the counts of the last line.
fn counts(text: &str) -> Option<SubtestTally> {
    let text = text.trim_matches(['=', ' ']);
    let (counts, time) = text.rsplit_once(" in ")?;
    if !time.starts_with(|c: char| c.is_ascii_digit()) || !time.contains('s') {
        return None;
    }
    let mut tally = SubtestTally::default();
    for part in counts.split(", ") {
        let (number, word) = part.split_once(' ')?;
        let count = number.parse::<u32>().ok().or((part == "no tests ran").then_some(0))?;
        match word {
            "passed" => tally.passed = count,
            "failed" => tally.failed = count,
            "skipped" => tally.skipped = count,
            "xfailed" => tally.xfail = count,
            "xpassed" => tally.xpass = count,
            "error" | "errors" => tally.error = count,
            _ => {}
        }
    }
    Some(tally)
}

impl Pytest {
    fn result(&mut self, id: &str, word: &str, why: &str, sheet: &mut Sheet) {
        self.has_lines = true;
        if word == "RERUN" {
            self.again.insert(id.to_owned());
            return;
        }
        let Some(status) = STATUS.iter().find(|(known, _)| *known == word).map(|(_, status)| *status) else { return };
        if let Some((last, at)) = &self.last
            && last == id
        {
            // A teardown that fails comes after the test's own result.
            let at = *at;
            if status.is_failure() {
                sheet.end(at, status);
                self.red.insert(id.to_owned(), at);
            }
            return;
        }
        self.settle_last(sheet);
        let flaky = self.again.remove(id) && status == SubtestStatus::Passed;
        let at = sheet.add(Entry { flaky, ..entry(id).ended(status).because(why) });
        if status.is_failure() {
            self.red.insert(id.to_owned(), at);
        }
        self.last = Some((id.to_owned(), at));
    }

    fn settle_last(&mut self, sheet: &mut Sheet) {
        if let Some((id, at)) = self.last.take()
            && !self.red.contains_key(&id)
        {
            sheet.settle(at);
        }
    }

    /// Takes a line of the short summary.
    fn short(&mut self, text: &str, sheet: &mut Sheet) {
        let Some((word, rest)) = text.split_once(' ') else { return };
        let status = match word {
            "FAILED" => SubtestStatus::Failed,
            "ERROR" => SubtestStatus::Error,
            _ => return,
        };
        let (id, why) = rest.split_once(" - ").unwrap_or((rest, ""));
        let id = id.trim();
        let known = self.red.get(id).copied();
        // Else it is a file that could not be collected, or the tests have no lines of their own.
        let at = known.unwrap_or_else(|| sheet.add(entry(id).ended(status)));
        self.red.insert(id.to_owned(), at);
        if let Some(entry) = sheet.entry(at)
            && entry.message.is_empty()
        {
            entry.message = words::message(why);
        }
    }

    /// Takes a line of the failures in full: where they happened.
    fn failure(&mut self, text: &str, sheet: &mut Sheet) {
        if text.starts_with("____") {
            let name = text.trim_matches(['_', ' ']);
            let name = name.rsplit_once(" of ").map_or(name, |(_, name)| name);
            self.told = name.replace('.', "::");
            return;
        }
        let Some((file, rest)) = text.split_once(':') else { return };
        let Some(line) = leading_number(rest) else { return };
        if self.told.is_empty() || file.contains(' ') {
            return;
        }
        let suffix = format!("{file}::{}", self.told);
        if let Some(entry) = self.red.get(&suffix).and_then(|at| sheet.entry(*at)) {
            entry.place = CodePlace::new(file, Some(line));
        }
    }

    fn close(&mut self, tally: &SubtestTally, sheet: &mut Sheet) {
        self.settle_last(sheet);
        let seen = sheet.summary().tally;
        if !self.has_lines {
            // Without `-v` only what failed has a name. With it, one whose teardown failed is counted twice there.
            for status in SubtestStatus::ALL {
                sheet.add_unnamed(status, tally.of(status).saturating_sub(seen.of(status)));
            }
        }
        self.part = PytestPart::Closed;
        self.red.clear();
        sheet.settle_ended();
    }
}

impl LineReader for Pytest {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        if text.starts_with("===") {
            let title = text.trim_matches(['=', ' ']);
            if title == "test session starts" {
                *self = Self::default();
                return;
            }
            if line.is_cut {
                return;
            }
            if let Some(tally) = counts(text) {
                return self.close(&tally, sheet);
            }
            self.part = match title {
                "ERRORS" | "FAILURES" => PytestPart::Failures,
                "short test summary info" => PytestPart::Summary,
                _ => self.part,
            };
            return;
        }
        match self.part {
            PytestPart::Tests if line.is_cut => {
                let id = text.trim_end();
                if is_id(id) && result(text).is_none() {
                    sheet.add(entry(id));
                }
            }
            PytestPart::Tests => {
                if let Some((id, word, why)) = result(text) {
                    self.result(id, word, why, sheet);
                } else if let Some(count) = text.split_once("collected ").and_then(|(_, rest)| leading_number(rest)) {
                    sheet.expect(u64::from(count));
                } else if text.starts_with("INTERNALERROR>") {
                    sheet.summary().lacks("pytest itself failed");
                } else if let Some(tally) = counts(text) {
                    self.close(&tally, sheet);
                }
            }
            PytestPart::Failures => self.failure(text, sheet),
            PytestPart::Summary => {
                if let Some(tally) = counts(text).filter(|_| !line.is_cut) {
                    return self.close(&tally, sheet);
                }
                self.short(text, sheet);
            }
            PytestPart::Closed => {}
        }
    }

    fn is_closed(&self) -> bool {
        self.part == PytestPart::Closed
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if self.part != PytestPart::Closed {
            sheet.summary().lacks("no closing line");
        }
        sheet.end_running("");
    }
}
