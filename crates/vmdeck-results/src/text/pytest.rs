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

/// Most tests that are known by their ids.
const KNOWN: usize = 20_000;
/// Most tests whose lines have begun.
const OPEN: usize = 10_000;

/// Which part of the output is being read.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum PytestPart {
    #[default]
    Tests,
    /// The failures in full.
    Failures,
    /// The short summary.
    Summary,
    /// The last line has come, as far as one can tell: what a test prints may look like it.
    Closed,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Pytest {
    is_begun: bool,
    part: PytestPart,
    /// The counts of the last line.
    counts: Option<SubtestTally>,
    /// How many tests there are to run.
    expected: u32,
    /// The tests that have ended otherwise than well, by their ids; with workers, all.
    known: HashMap<String, Option<Id>>,
    /// The tests whose lines have begun, and the last of them.
    open: HashMap<String, Option<Id>>,
    current: Option<String>,
    /// The test whose result came last, which may still turn into an error.
    last: Option<(String, Option<Id>)>,
    /// How many failed twice: itself, and what takes it down.
    twice: u32,
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

/// Returns the id with which a line begins whose test has not ended.
fn begun(text: &str) -> Option<&str> {
    let mut id = text.split(' ').next().unwrap_or_default();
    if id.contains('[') && !id.ends_with(']') {
        // The values of its parameters may hold blanks.
        id = &text[..text.rfind(']').map_or(id.len(), |end| end + 1)];
    }
    id.contains(".py::").then_some(id)
}

/// Returns the status that stands alone on a line, behind what a test has printed.
fn bare_status(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), ""));
    let rest = rest.trim();
    let is_rest = rest.is_empty() || (rest.starts_with('[') && rest.ends_with("%]")) || rest.starts_with('(');
    let is_word = word == "RERUN" || STATUS.iter().any(|(known, _)| *known == word);
    (is_word && is_rest).then_some((word, ""))
}

/// Returns the counts of the last line: `=== 3 failed, 6 passed in 0.03s ===`, with `-q` without the marks.
fn counts(text: &str) -> Option<SubtestTally> {
    let text = text.trim_matches(['=', ' ']);
    let (counts, time) = text.rsplit_once(" in ")?;
    if !time.starts_with(|c: char| c.is_ascii_digit()) || !time.contains('s') {
        return None;
    }
    let mut tally = SubtestTally::default();
    if counts == "no tests ran" {
        return Some(tally);
    }
    for part in counts.split(", ") {
        let (number, word) = part.split_once(' ')?;
        let count = number.parse::<u32>().ok()?;
        match word {
            "passed" => tally.passed = count,
            "failed" => tally.failed = count,
            "skipped" => tally.skipped = count,
            "xfailed" => tally.xfail = count,
            "xpassed" => tally.xpass = count,
            "error" | "errors" => tally.error = count,
            "deselected" | "warning" | "warnings" | "rerun" => {}
            // Of plugins.
            _ if word.starts_with("subtest") => {}
            _ => return None,
        }
    }
    Some(tally)
}

/// Returns whether a line is the last one of a session.
pub(crate) fn is_closing(text: &str) -> bool {
    counts(text).is_some_and(|tally| tally.total() > 0)
}

impl Pytest {
    fn begin(&mut self, before: &str, sheet: &mut Sheet) {
        // What stands before it on the line is a test that died in mid-line.
        self.open_test(before.trim_end(), sheet);
        if self.part == PytestPart::Closed {
            self.finish(sheet);
        } else if self.is_begun {
            sheet.summary().lacks("a session did not end");
            sheet.end_running("");
        }
        *self = Self { is_begun: true, ..Self::default() };
        sheet.begin_session();
    }

    /// Begins a test whose line is not whole.
    fn open_test(&mut self, text: &str, sheet: &mut Sheet) {
        let Some(id) = begun(text).filter(|_| self.is_begun) else { return };
        self.current = Some(id.to_owned());
        if self.open.len() < OPEN && !self.open.contains_key(id) {
            self.open.insert(id.to_owned(), sheet.add(entry(id)));
        }
    }

    fn result(&mut self, id: &str, word: &str, why: &str, by_worker: bool, sheet: &mut Sheet) {
        self.has_lines = true;
        let open = self.open.remove(id);
        if word == "RERUN" {
            if let Some(at) = open {
                sheet.withdraw(at);
            }
            self.again.insert(id.to_owned());
            return;
        }
        let Some(status) = STATUS.iter().find(|(known, _)| *known == word).map(|(_, status)| *status) else { return };
        let before = match &self.last {
            Some((last, at)) if last == id => Some(*at),
            _ => self.known.get(id).copied(),
        };
        if let Some(at) = before {
            // A teardown that fails comes after the test's own result.
            if let Some(at) = open {
                sheet.withdraw(at);
            }
            if status.is_failure() {
                let was_red = sheet.entry(at).is_some_and(|e| e.status.is_some_and(SubtestStatus::is_failure));
                self.twice += u32::from(was_red);
                sheet.end(at, status);
                self.known.insert(id.to_owned(), at);
            }
            return;
        }
        self.settle_last(sheet);
        let flaky = self.again.remove(id) && status == SubtestStatus::Passed;
        let at = match open {
            Some(at) => {
                sheet.end(at, status);
                at
            }
            None => sheet.add(entry(id).ended(status)),
        };
        if let Some(entry) = sheet.entry(at) {
            entry.flaky = flaky;
            entry.message = words::message(why);
        }
        if (status.is_failure() || by_worker) && self.known.len() < KNOWN {
            self.known.insert(id.to_owned(), at);
        }
        self.last = Some((id.to_owned(), at));
    }

    fn settle_last(&mut self, sheet: &mut Sheet) {
        if let Some((id, at)) = self.last.take()
            && !self.known.contains_key(&id)
        {
            sheet.settle(at);
        }
    }

    /// Takes what looks like the last line.
    fn close(&mut self, tally: SubtestTally, sheet: &mut Sheet) {
        if self.counts.is_some() && !self.is_begun {
            // With `-q` nothing else parts one session from the next.
            self.finish(sheet);
            *self = Self::default();
            sheet.begin_session();
        }
        (self.counts, self.part) = (Some(tally), PytestPart::Closed);
    }

    /// Takes a line of the short summary.
    fn short(&mut self, text: &str, sheet: &mut Sheet) {
        let Some((word, rest)) = text.split_once(' ') else { return };
        let status = match word {
            "FAILED" => SubtestStatus::Failed,
            "ERROR" => SubtestStatus::Error,
            _ if word.starts_with("SUBFAIL") => return Self::part_failed(text, sheet),
            _ => return,
        };
        // An id may hold what parts it from its reason.
        let cuts = rest.match_indices(" - ").map(|(at, _)| (&rest[..at], &rest[at + 3..]));
        let known = cuts.clone().find(|(id, _)| self.known.contains_key(*id));
        let whole = Some((rest.trim(), "")).filter(|(id, _)| self.known.contains_key(*id));
        let first = rest.split_once(" - ").unwrap_or((rest.trim(), ""));
        let (id, why) = known.or(whole).unwrap_or(first);
        let before = self.known.get(id).copied();
        // Else it is a file that could not be collected, or the tests have no lines of their own.
        let at = before.unwrap_or_else(|| sheet.add(entry(id).ended(status)));
        if self.known.len() < KNOWN {
            self.known.insert(id.to_owned(), at);
        }
        if let Some(entry) = sheet.entry(at)
            && entry.message.is_empty()
        {
            entry.message = words::message(why);
        }
    }

    /// Takes a line of the summary on a part of a test: `SUBFAILED[msg] (i=1) a.py::T::test - AssertionError`.
    fn part_failed(text: &str, sheet: &mut Sheet) {
        let (head, why) = text.split_once(" - ").unwrap_or((text, ""));
        let Some((part, id)) = head.rsplit_once(' ') else { return };
        let part = part.trim_start_matches(|c: char| c.is_ascii_uppercase());
        sheet.add(entry(&format!("{id} {part}")).ended(SubtestStatus::Failed).because(why));
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
        if let Some(entry) = self.known.get(&suffix).and_then(|at| sheet.entry(*at)) {
            entry.place = CodePlace::new(file, Some(line));
        }
    }

    /// Ends a session: nothing more comes of it.
    fn finish(&mut self, sheet: &mut Sheet) {
        self.settle_last(sheet);
        if sheet.end_running("") > 0 {
            sheet.summary().lacks("a test did not end");
        }
        let Some(tally) = self.counts.take() else { return sheet.summary().lacks("no closing line") };
        if self.has_lines {
            // One whose teardown failed is counted twice there.
            sheet.claim_failures(tally.failures().saturating_sub(self.twice));
            let expected = self.expected;
            if tally.total() < expected && tally.failures() == 0 {
                sheet.summary().lacks(format!("{expected} tests were collected, {} have a result", tally.total()));
            }
        } else {
            // Without `-v` only what failed has a name.
            let seen = sheet.session();
            for status in SubtestStatus::ALL {
                sheet.add_unnamed(status, tally.of(status).saturating_sub(seen.of(status)));
            }
        }
    }

    fn of_tests(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        if line.is_cut {
            if result(text).is_none() {
                self.open_test(text.trim_end(), sheet);
            }
        } else if let Some((id, word, why)) = result(text) {
            self.result(id, word, why, text.starts_with("[gw"), sheet);
        } else if let Some((word, why)) = bare_status(text)
            && let Some(id) = self.current.clone().filter(|id| self.open.contains_key(id))
        {
            self.result(&id, word, why, false, sheet);
        } else if let Some((_, rest)) = text.split_once("collected ")
            && let Some(count) = leading_number(rest)
        {
            let left_out = rest.split(" / ").find_map(|part| part.strip_suffix(" deselected")?.parse::<u32>().ok());
            let selected = rest.split(" / ").find_map(|part| part.strip_suffix(" selected")?.parse::<u32>().ok());
            self.expected = selected.unwrap_or(count.saturating_sub(left_out.unwrap_or(0)));
            sheet.expect_more(u64::from(self.expected));
        } else if text.starts_with("INTERNALERROR>") {
            sheet.summary().lacks("pytest itself failed");
        } else if let Some(tally) = counts(text) {
            self.close(tally, sheet);
        } else {
            self.open_test(text, sheet);
        }
    }
}

impl LineReader for Pytest {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        if let Some((before, _)) = text.split_once("= test session starts =") {
            return self.begin(before.trim_end_matches('='), sheet);
        }
        if text.starts_with("!!!!") && self.part != PytestPart::Failures {
            let why = text.trim_matches(['!', ' ']);
            if !why.starts_with("stopping after") && !why.starts_with("Interrupted: ") {
                sheet.summary().lacks(format!("stopped: {}", words::message(why)));
            }
            return;
        }
        if text.starts_with("===") {
            if line.is_cut {
                return;
            }
            if let Some(tally) = counts(text) {
                return self.close(tally, sheet);
            }
            self.part = match text.trim_matches(['=', ' ']) {
                "ERRORS" | "FAILURES" => PytestPart::Failures,
                "short test summary info" => PytestPart::Summary,
                _ => self.part,
            };
            return;
        }
        match self.part {
            PytestPart::Tests => self.of_tests(line, sheet),
            PytestPart::Failures => self.failure(text, sheet),
            PytestPart::Summary => match counts(text).filter(|_| !line.is_cut) {
                Some(tally) => self.close(tally, sheet),
                None => self.short(text, sheet),
            },
            PytestPart::Closed => {
                if let Some(tally) = counts(text).filter(|_| !line.is_cut && !self.is_begun) {
                    self.close(tally, sheet);
                }
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.part == PytestPart::Closed
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if self.part != PytestPart::Closed {
            self.counts = None;
        }
        self.finish(sheet);
        sheet.settle_ended();
    }
}
