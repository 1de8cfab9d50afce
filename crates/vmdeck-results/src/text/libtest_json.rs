//! The JSON of Rust's own test harness, and that of nextest, which has the same form.

use crate::{
    line::Line,
    place::{self, CodePlace},
    reader::LineReader,
    sheet::{Entry, Id, Sheet},
    words,
};
use serde::Deserialize;
use std::{borrow::Cow, collections::HashMap};
use vmdeck_model::subtest::SubtestStatus;

/// Most tests that may run at once.
const OPEN: usize = 10_000;

#[derive(Deserialize)]
struct LibtestEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(default)]
    exec_time: Option<f64>,
    #[serde(borrow, default)]
    stdout: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    #[serde(default)]
    test_count: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct LibtestJson {
    /// The tests that run: their places on the sheet tell what is running, their results come in the order of their ends.
    running: HashMap<String, Option<Id>>,
    open_suites: u32,
    expected: u64,
    is_begun: bool,
}

/// Returns a test with what it is part of: nextest writes `crate::binary$test`.
fn entry(name: &str) -> Entry {
    let Some((binary, test)) = name.split_once('$') else { return Entry::new("", "", name) };
    let id = match binary.split_once("::") {
        Some((of, same)) if of == same => of,
        _ => binary,
    };
    Entry::new(id, "::", test)
}

impl LibtestJson {
    fn test(&mut self, event: &LibtestEvent<'_>, name: &str, sheet: &mut Sheet) {
        let status = match event.event.as_ref() {
            "started" => {
                if self.running.len() < OPEN {
                    self.running.insert(name.to_owned(), sheet.add(entry(name)));
                }
                return;
            }
            "ok" => SubtestStatus::Passed,
            "failed" => SubtestStatus::Failed,
            "ignored" => SubtestStatus::Skipped,
            "timeout" => return sheet.summary().warn(format!("{} runs for long", words::name(name))),
            _ => return,
        };
        if let Some(id) = self.running.remove(name) {
            sheet.withdraw(id);
        }
        let said = event.stdout.as_deref().unwrap_or_default();
        let message = event.message.as_deref().or(event.reason.as_deref()).unwrap_or_default();
        let text = if said.trim().is_empty() { message } else { said };
        let mut entry = Entry { took_ms: event.exec_time.and_then(words::millis), ..entry(name).ended(status) };
        if status.is_failure() {
            entry.place = CodePlace::find(text, None);
            entry.message = place::reason(text);
        } else if status == SubtestStatus::Skipped {
            entry = entry.because(message);
        }
        let id = sheet.add(entry);
        sheet.settle(id);
    }
}

impl LineReader for LibtestJson {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        // What a test prints without a line end stands before it.
        let Some(from) = ["{ \"type\":", "{\"type\":"].iter().filter_map(|begin| line.text.find(begin)).min() else {
            if line.is_cut && line.text.trim_start().starts_with('{') {
                sheet.summary().lacks("the last line is cut");
            }
            return;
        };
        let text = line.text[from..].trim();
        let Ok(event) = serde_json::from_str::<LibtestEvent<'_>>(text) else {
            if line.is_cut {
                sheet.summary().lacks("the last line is cut");
            }
            return;
        };
        match (event.kind.as_ref(), event.event.as_ref()) {
            ("suite", "started") => {
                self.is_begun = true;
                self.open_suites += 1;
                self.expected += event.test_count.unwrap_or(0);
                sheet.expect(self.expected);
            }
            ("suite", _) => self.open_suites = self.open_suites.saturating_sub(1),
            ("test", _) => {
                self.is_begun = true;
                if let Some(name) = event.name.as_deref() {
                    self.test(&event, name, sheet);
                }
            }
            _ => {}
        }
    }

    fn is_closed(&self) -> bool {
        self.is_begun && self.open_suites == 0 && self.running.is_empty()
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if self.open_suites > 0 || !self.running.is_empty() {
            sheet.summary().lacks("the stream does not end");
        }
        sheet.end_running("");
    }
}
