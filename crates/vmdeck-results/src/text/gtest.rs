//! The text of `GoogleTest`.

use crate::{
    line::Line,
    place::CodePlace,
    reader::LineReader,
    sheet::{Entry, Id, Sheet},
    words,
};
use vmdeck_model::subtest::SubtestStatus;

/// See the module.
#[derive(Default)]
pub(crate) struct Gtest {
    running: Option<(String, Option<Id>)>,
    place: Option<CodePlace>,
    message: String,
    /// Whether the next line says why.
    is_reason_next: bool,
    is_closed: bool,
    /// Whether tests are told when they begin.
    has_runs: bool,
}

/// Reads `Calc.Adds, where GetParam() = 3 (12 ms)`: the name and the time.
fn ended(rest: &str) -> (&str, Option<u64>) {
    let (name, time) = rest.rsplit_once(" (").unwrap_or((rest, ""));
    let took = time.strip_suffix(" ms)").and_then(|ms| ms.trim().parse().ok());
    (name.split_once(", where ").map_or(name, |(name, _)| name), took)
}

impl Gtest {
    /// Takes a line after the end: the list of the failed, which have been told, and the counts.
    fn after(text: &str, sheet: &mut Sheet) {
        let failed = text.strip_prefix("[  FAILED  ] ");
        if let Some(suite) = failed.and_then(|rest| rest.strip_suffix(": SetUpTestSuite or TearDownTestSuite")) {
            let entry = Entry::new("", "", suite).ended(SubtestStatus::Error);
            let id = sheet.add(entry.because("SetUpTestSuite or TearDownTestSuite failed"));
            return sheet.settle(id);
        }
        let count = |rest: &str| crate::place::leading_number(rest).filter(|_| rest.contains(" test"));
        if let Some(count) = text.strip_prefix("[  PASSED  ] ").and_then(count) {
            let seen = sheet.session().passed;
            sheet.add_unnamed(SubtestStatus::Passed, count.saturating_sub(seen));
        } else if let Some(count) = failed.and_then(count) {
            sheet.claim_failures(count);
        }
    }
}

impl LineReader for Gtest {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        if let Some(rest) = text.strip_prefix("[==========] ") {
            if let Some(count) = rest.strip_prefix("Running ").and_then(crate::place::leading_number) {
                self.is_closed = false;
                sheet.expect_more(u64::from(count));
                sheet.begin_session();
            } else if rest.contains(" ran.") && !line.is_cut {
                self.is_closed = true;
                sheet.settle_ended();
            }
            return;
        }
        if line.is_cut {
            return;
        }
        if self.is_closed {
            return Self::after(text, sheet);
        }
        if let Some(name) = text.strip_prefix("[ RUN      ] ") {
            self.has_runs = true;
            self.running = Some((name.to_owned(), sheet.add(Entry::new("", "", name))));
            (self.place, self.is_reason_next) = (None, false);
            self.message.clear();
            return;
        }
        if let Some(name) = text.strip_prefix("[ DISABLED ] ") {
            let id = sheet.add(Entry::new("", "", name).ended(SubtestStatus::Skipped).because("disabled"));
            return sheet.settle(id);
        }
        for (word, status) in [
            ("[       OK ] ", SubtestStatus::Passed),
            ("[  FAILED  ] ", SubtestStatus::Failed),
            ("[  SKIPPED ] ", SubtestStatus::Skipped),
        ] {
            // What the test printed may stand before it on the line.
            let Some((_, rest)) = text.split_once(word) else { continue };
            let (name, took_ms) = ended(rest);
            let running = self.running.take_if(|(running, _)| running == name);
            // With `--gtest_brief` only what failed is told, and only when it has.
            let is_brief = !self.has_runs
                && running.is_none()
                && took_ms.is_some()
                && text.starts_with(word)
                && !name.contains(": ");
            let id = match running {
                Some((_, id)) => id,
                None if is_brief => sheet.add(Entry::new("", "", name)),
                None => continue,
            };
            sheet.end(id, status);
            if let Some(entry) = sheet.entry(id) {
                entry.took_ms = took_ms;
                if status != SubtestStatus::Passed {
                    entry.place = self.place.take();
                    entry.message = std::mem::take(&mut self.message);
                }
            }
            return sheet.settle(id);
        }
        if std::mem::take(&mut self.is_reason_next) {
            self.message = words::message(text);
        } else if self.place.is_none() && [": Failure", ": Skipped"].iter().any(|end| text.ends_with(end)) {
            self.place = CodePlace::find(text, None);
            self.is_reason_next = true;
        }
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if !self.is_closed {
            sheet.summary().lacks("no closing line");
        }
        let why = self.message.clone();
        sheet.end_running(&why);
    }
}
