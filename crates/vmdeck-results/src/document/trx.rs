//! The XML of `dotnet test`: the results come first, and the classes of the tests after them.

use super::elements::{Element, Handler, TextBuffer, full_name};
use crate::{
    place::{self, CodePlace},
    sheet::{Entry, Sheet},
    words,
};
use std::collections::HashMap;
use vmdeck_model::subtest::SubtestStatus;

/// Most results and definitions that are kept.
const MOST: usize = 100_000;

/// A result whose class is not known yet.
struct Held {
    test: String,
    name: String,
    status: SubtestStatus,
    took_ms: Option<u64>,
    message: TextBuffer,
    trace: TextBuffer,
    /// Whether it stands for the rows below it.
    has_rows: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Trx {
    results: Vec<Held>,
    /// The results that are open, by their places in the list.
    open: Vec<usize>,
    classes: HashMap<String, String>,
    /// The definition that is open.
    definition: Option<String>,
    part: String,
    outcome: String,
    run_message: TextBuffer,
    in_run_info: bool,
}

/// Reads `00:01:02.5000000`.
fn duration(text: &str) -> Option<u64> {
    let mut parts = text.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    words::millis(hours * 3600.0 + minutes * 60.0 + seconds)
}

fn status(outcome: &str) -> SubtestStatus {
    match outcome {
        "Passed" | "PassedButRunAborted" | "Warning" => SubtestStatus::Passed,
        "Failed" | "Timeout" => SubtestStatus::Failed,
        "NotExecuted" | "Inconclusive" | "NotRunnable" | "Pending" => SubtestStatus::Skipped,
        _ => SubtestStatus::Error,
    }
}

impl Handler for Trx {
    fn open(&mut self, element: &Element, _: &mut Sheet) {
        let of = |key: &str| element.get(key).unwrap_or_default().to_owned();
        match element.name.as_str() {
            "UnitTestResult" if self.results.len() < MOST => {
                if let Some(parent) = self.open.last() {
                    self.results[*parent].has_rows = true;
                }
                self.open.push(self.results.len());
                self.results.push(Held {
                    test: of("testId"),
                    name: of("testName"),
                    status: status(&of("outcome")),
                    took_ms: element.get("duration").and_then(duration),
                    message: TextBuffer::default(),
                    trace: TextBuffer::default(),
                    has_rows: false,
                });
            }
            "UnitTest" => self.definition = Some(of("id")),
            "TestMethod" => {
                if let Some(id) = &self.definition
                    && self.classes.len() < MOST
                {
                    // With the assembly behind a comma.
                    let class = of("className").split(',').next().unwrap_or_default().to_owned();
                    self.classes.insert(id.clone(), class);
                }
            }
            "ResultSummary" => self.outcome = of("outcome"),
            "RunInfo" => self.in_run_info = element.get("outcome").is_none_or(|outcome| outcome != "Warning"),
            _ => {}
        }
        element.name.clone_into(&mut self.part);
    }

    fn text(&mut self, text: &str) {
        if self.in_run_info && self.part == "Text" {
            return self.run_message.push(text);
        }
        let Some(held) = self.open.last().map(|at| &mut self.results[*at]) else { return };
        match self.part.as_str() {
            "Message" => held.message.push(text),
            "StackTrace" => held.trace.push(text),
            _ => {}
        }
    }

    fn close(&mut self, name: &str, _: &mut Sheet) {
        self.part.clear();
        match name {
            "UnitTestResult" => drop(self.open.pop()),
            "UnitTest" => self.definition = None,
            "RunInfo" => self.in_run_info = false,
            _ => {}
        }
    }

    fn inside(&self) -> Option<String> {
        self.open.last().map(|at| words::name(&self.results[*at].name))
    }

    fn end(&mut self, sheet: &mut Sheet) {
        let cut: Vec<usize> = std::mem::take(&mut self.open);
        for (at, held) in self.results.drain(..).enumerate() {
            if held.has_rows || cut.contains(&at) {
                continue;
            }
            let class = self.classes.get(&held.test).map(String::as_str).filter(|class| !class.is_empty());
            let (class, name) = full_name(class, &held.name);
            let mut entry = Entry { took_ms: held.took_ms, ..Entry::new(&class, "::", &name).ended(held.status) };
            if held.status != SubtestStatus::Passed {
                entry.message = place::reason(held.message.as_str());
                entry.place = CodePlace::find(held.trace.as_str(), None);
            }
            sheet.add(entry);
        }
        if ["Aborted", "Error", "Timeout"].contains(&self.outcome.as_str()) {
            let why = place::reason(self.run_message.as_str());
            sheet.summary().lacks(format!("run aborted: {why}").trim_end_matches(": ").to_owned());
        }
    }
}
