//! The XML of `NUnit` 3.

use super::elements::{Element, Handler, TextBuffer, full_name};
use crate::{
    place::{self, CodePlace},
    sheet::{Entry, Sheet},
    words,
};
use vmdeck_model::subtest::SubtestStatus;

#[derive(Default)]
struct NunitCase {
    name: String,
    class: Option<String>,
    result: String,
    label: String,
    took_ms: Option<u64>,
    message: TextBuffer,
    trace: TextBuffer,
}

/// See the module.
#[derive(Default)]
pub(super) struct Nunit {
    case: Option<NunitCase>,
    /// The element whose text comes.
    part: String,
}

impl Handler for Nunit {
    fn open(&mut self, element: &Element, _: &mut Sheet) {
        if element.name == "test-case" {
            let of = |key: &str| element.get(key).unwrap_or_default().to_owned();
            self.case = Some(NunitCase {
                name: of("name"),
                class: element.get("classname").map(str::to_owned),
                result: of("result"),
                label: of("label"),
                took_ms: element.get("duration").and_then(words::parse_seconds),
                ..NunitCase::default()
            });
        }
        element.name.clone_into(&mut self.part);
    }

    fn text(&mut self, text: &str) {
        let Some(case) = &mut self.case else { return };
        match self.part.as_str() {
            "message" => case.message.push(text),
            "stack-trace" => case.trace.push(text),
            _ => {}
        }
    }

    fn close(&mut self, name: &str, sheet: &mut Sheet) {
        self.part.clear();
        if name != "test-case" {
            return;
        }
        let Some(case) = self.case.take() else { return };
        let status = match case.result.as_str() {
            "Passed" | "Warning" => SubtestStatus::Passed,
            "Failed" if ["Error", "Invalid", "Cancelled"].contains(&case.label.as_str()) => SubtestStatus::Error,
            "Failed" => SubtestStatus::Failed,
            "Skipped" | "Inconclusive" => SubtestStatus::Skipped,
            _ => SubtestStatus::Error,
        };
        let (class, name) = full_name(case.class.as_deref(), &case.name);
        let mut entry = Entry { took_ms: case.took_ms, ..Entry::new(&class, "::", &name).ended(status) };
        if status != SubtestStatus::Passed {
            entry.message = place::reason(case.message.as_str());
            entry.place = CodePlace::find(case.trace.as_str(), None);
        }
        sheet.add(entry);
    }

    fn inside(&self) -> Option<String> {
        self.case.as_ref().map(|case| words::name(&case.name))
    }

    fn end(&mut self, _: &mut Sheet) {}
}
