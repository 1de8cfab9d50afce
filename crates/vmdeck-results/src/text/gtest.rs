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
}

/// Reads `Calc.Adds, where GetParam() = 3 (12 ms)`: the name and the time.
fn ended(rest: &str) -> (&str, Option<u64>) {
    let (name, time) = rest.rsplit_once(" (").unwrap_or((rest, ""));
    let took = time.strip_suffix(" ms)").and_then(|ms| ms.trim().parse().ok());
    (name.split_once(", where ").map_or(name, |(name, _)| name), took)
}

impl LineReader for Gtest {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        if let Some(rest) = text.strip_prefix("[==========] ") {
            if let Some(count) = rest.strip_prefix("Running ").and_then(crate::place::leading_number) {
                self.is_closed = false;
                sheet.expect_more(u64::from(count));
            } else if rest.contains(" ran.") && !line.is_cut {
                self.is_closed = true;
                sheet.settle_ended();
            }
            return;
        }
        // The list of the failed comes again at the end.
        if self.is_closed || line.is_cut {
            return;
        }
        if let Some(name) = text.strip_prefix("[ RUN      ] ") {
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
            let Some((running, id)) = self.running.take_if(|(running, _)| running == name) else { continue };
            drop(running);
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
