//! The text of ctest: a line when a test starts, one when it has ended, and one with the counts.

use crate::{
    line::Line,
    reader::LineReader,
    sheet::{Entry, Id, Sheet},
    words,
};
use std::collections::HashMap;
use vmdeck_model::subtest::SubtestStatus;

/// Most tests that may run at once.
const OPEN: usize = 10_000;

/// See the module.
#[derive(Default)]
pub(crate) struct Ctest {
    running: HashMap<u64, Option<Id>>,
    /// Those that failed and may be tried again, by their numbers.
    failed: HashMap<u64, Option<Id>>,
    /// The test whose output comes now, if it failed.
    last: Option<Id>,
    is_closed: bool,
    is_begun: bool,
    has_tests: bool,
    /// How many tests there are.
    total: Option<u64>,
}

/// What a line says of a test that has ended.
struct Ended<'a> {
    number: u64,
    total: Option<u64>,
    name: &'a str,
    word: &'a str,
    took_ms: Option<u64>,
}

fn ended(text: &str) -> Option<Ended<'_>> {
    let (count, rest) = text.split_once(" Test ")?;
    let total = match count.trim().split_once('/') {
        Some((_, total)) => total.trim().parse().ok(),
        // Of one that is tried again, nothing stands there.
        None if count.trim().is_empty() => None,
        None => return None,
    };
    let (number, rest) = rest.trim_start().strip_prefix('#')?.split_once(": ")?;
    let timed = rest.trim_end().strip_suffix(" sec").and_then(|rest| rest.rsplit_once(' '));
    let (rest, took_ms) = match timed {
        Some((rest, time)) => (rest.trim_end(), words::parse_seconds(time)),
        // A reason of several lines: the time is on the last.
        None if rest.contains("***Failed  ") => (rest.trim_end(), None),
        None => return None,
    };
    let (name, word) = match rest.rsplit_once("***") {
        Some((name, word)) => (name, word),
        None => (rest.strip_suffix("Passed")?, "Passed"),
    };
    // What stands behind the dots belongs to the word: `Subprocess aborted***Exception:`.
    let (name, before) =
        name.split_once(" ...").map_or((name, ""), |(name, rest)| (name, rest.trim_matches(['.', ' '])));
    let word = if before.is_empty() { word.trim() } else { before };
    let name = name.trim_end().trim_end_matches('.').trim_end();
    Some(Ended { number: number.trim().parse().ok()?, total, name, word, took_ms })
}

fn status(word: &str) -> SubtestStatus {
    match word {
        "Passed" => SubtestStatus::Passed,
        "Skipped" | "Not Run (Disabled)" => SubtestStatus::Skipped,
        "Not Run" => SubtestStatus::Error,
        _ => SubtestStatus::Failed,
    }
}

impl LineReader for Ctest {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        if text.starts_with("Test project ") {
            if self.is_begun && !self.is_closed {
                sheet.summary().lacks("a run did not end");
                sheet.end_running("");
                self.running.clear();
            }
            (self.is_begun, self.is_closed) = (true, false);
            return sheet.begin_session();
        }
        if line.is_cut {
            return;
        }
        if text == "No tests were found!!!" || text.contains("% tests passed, ") {
            (self.is_begun, self.is_closed, self.last) = (true, true, None);
            self.failed.clear();
            let claimed = text.split_once("% tests passed, ").and_then(|(_, rest)| crate::place::leading_number(rest));
            sheet.claim_failures(claimed.unwrap_or(0));
            return sheet.settle_ended();
        }
        if let Some((number, name)) = text.trim_start().strip_prefix("Start ").and_then(|rest| rest.split_once(": "))
            && let Ok(number) = number.trim().parse()
            && self.running.len() < OPEN
        {
            self.last = None;
            self.has_tests = true;
            self.running.insert(number, sheet.add(Entry::new("", "", name)));
            return;
        }
        if let Some(ended) = ended(text) {
            (self.is_closed, self.has_tests) = (false, true);
            if let Some(total) = ended.total {
                self.total = Some(total);
                sheet.expect(total);
            }
            let status = status(ended.word);
            let before = self.failed.remove(&ended.number);
            let id = match self.running.remove(&ended.number) {
                Some(id) => id,
                None => sheet.add(Entry::new("", "", ended.name)),
            };
            sheet.end(id, status);
            if let Some(before) = before {
                sheet.withdraw(before);
            }
            if let Some(entry) = sheet.entry(id) {
                entry.took_ms = ended.took_ms;
                entry.flaky = before.is_some() && status == SubtestStatus::Passed;
                if status != SubtestStatus::Passed {
                    entry.message = words::message(ended.word);
                }
            }
            if status.is_failure() {
                self.failed.insert(ended.number, id);
                self.last = id;
            } else {
                sheet.settle(id);
                self.last = None;
            }
            return;
        }
        let told = words::message(text);
        if let Some(last) = self.last.filter(|_| !told.is_empty()) {
            // Only the first line of it.
            self.last = None;
            if let Some(entry) = sheet.entry(Some(last)) {
                entry.message = format!("{}: {told}", entry.message);
                entry.place = crate::place::CodePlace::find(text, None);
            }
        }
    }

    fn is_certain(&self) -> bool {
        self.is_closed || self.has_tests
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn end(&mut self, sheet: &mut Sheet) {
        // Where every test is disabled there is no closing line.
        let seen = sheet.session();
        let is_whole = self.total == Some(u64::from(seen.total())) && seen.skipped == seen.total();
        if !self.is_closed && !is_whole {
            sheet.summary().lacks("no closing line");
        }
        sheet.end_running("");
    }
}
