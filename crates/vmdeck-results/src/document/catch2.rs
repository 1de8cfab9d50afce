//! The XML of Catch2's own reporter: the sections of a test are its parts.

use super::elements::{Element, Handler, TextBuffer};
use crate::{
    place::{CodePlace, reason},
    sheet::{Entry, Sheet},
    words,
};
use vmdeck_model::subtest::SubtestStatus;

#[derive(Default)]
struct Catch2Case {
    name: String,
    place: Option<CodePlace>,
    failed_at: Option<CodePlace>,
    message: String,
    threw: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Catch2 {
    case: Option<Catch2Case>,
    part: String,
    text: TextBuffer,
}

impl Handler for Catch2 {
    fn open(&mut self, element: &Element, sheet: &mut Sheet) {
        let line = || element.get("line").and_then(|line| line.parse().ok());
        let here = || element.get("filename").and_then(|file| CodePlace::new(file, line()));
        self.text.take();
        match element.name.as_str() {
            "TestCase" => {
                let name = element.get("name").unwrap_or_default().to_owned();
                self.case = Some(Catch2Case { name, place: here(), ..Catch2Case::default() });
            }
            "Expression" if element.get("success") == Some("false") => {
                if let Some(case) = &mut self.case {
                    case.failed_at = case.failed_at.take().or_else(here);
                }
            }
            "Failure" | "Exception" | "FatalErrorCondition" => {
                if let Some(case) = &mut self.case {
                    case.threw |= element.name != "Failure";
                    case.failed_at = case.failed_at.take().or_else(here);
                }
            }
            "OverallResult" => {
                let Some(case) = self.case.take() else { return };
                let took_ms = element.get("durationInSeconds").and_then(words::parse_seconds);
                let is_ok = element.get("success") == Some("true");
                let skips = element.get("skips").is_some_and(|count| count != "0");
                let status = match (is_ok, case.failed_at.is_some()) {
                    // It may fail, and did.
                    (true, true) => SubtestStatus::Xfail,
                    (true, false) if skips => SubtestStatus::Skipped,
                    (true, false) => SubtestStatus::Passed,
                    (false, _) if case.threw => SubtestStatus::Error,
                    (false, _) => SubtestStatus::Failed,
                };
                let entry = Entry::new("", "", &case.name).ended(status).because(&case.message);
                sheet.add(Entry { took_ms, place: case.failed_at.or(case.place), ..entry });
            }
            _ => {}
        }
        element.name.clone_into(&mut self.part);
    }

    fn text(&mut self, text: &str) {
        self.text.push(text);
    }

    fn close(&mut self, name: &str, _: &mut Sheet) {
        let text = self.text.take();
        let Some(case) = &mut self.case else { return };
        let says = ["Failure", "Exception", "FatalErrorCondition", "Original"].contains(&name);
        if says && case.failed_at.is_some() && case.message.is_empty() {
            case.message = reason(&text);
        }
    }

    fn inside(&self) -> Option<String> {
        self.case.as_ref().map(|case| words::name(&case.name))
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if let Some(case) = self.case.take() {
            let id = sheet.add(Entry::new("", "", &case.name));
            sheet.did_not_end(id, &case.message);
        }
    }
}
