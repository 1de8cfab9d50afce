//! `JUnit` XML, as it is in the wild: the counts in its head are not believed, and neither is that a test without a word has passed where
//! the tool says otherwise elsewhere.

use super::elements::{Element, Handler, TextBuffer, full_name};
use crate::{
    place::{self, CodePlace},
    sheet::{Entry, Sheet},
    words,
};
use vmdeck_model::subtest::SubtestStatus;

/// What ctest writes in place of a reason where a test should have been run and could not be.
const BROKEN: [&str; 3] = ["Unable to find executable", "Fixture dependency failed", "Required Files Missing"];

/// What an element below a test says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JunitPart {
    Failure,
    Error,
    Skipped,
    Flaky,
    Rerun,
    Out,
    Err,
}

impl JunitPart {
    fn of(name: &str) -> Option<Self> {
        match name {
            "failure" => Some(JunitPart::Failure),
            "error" => Some(JunitPart::Error),
            "skipped" => Some(JunitPart::Skipped),
            "flakyFailure" | "flakyError" => Some(JunitPart::Flaky),
            "rerunFailure" | "rerunError" => Some(JunitPart::Rerun),
            "system-out" => Some(JunitPart::Out),
            "system-err" => Some(JunitPart::Err),
            _ => None,
        }
    }
}

/// A test that is being read.
#[expect(clippy::struct_excessive_bools, reason = "what a test says of itself may be any of these at once")]
#[derive(Default)]
struct JunitCase {
    name: String,
    class: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    took_ms: Option<u64>,
    /// Whether it says of itself that it was not run.
    is_disabled: bool,
    is_failed: bool,
    is_error: bool,
    is_skipped: bool,
    is_expected: bool,
    is_flaky: bool,
    /// The message and the text of what decides.
    message: String,
    text: TextBuffer,
    out: TextBuffer,
    err: TextBuffer,
}

/// See the module.
#[derive(Default)]
pub(super) struct JunitXml {
    /// The files of the suites that are open.
    suites: Vec<Option<String>>,
    case: Option<JunitCase>,
    /// The part whose text comes, and how many elements are open in it.
    part: Option<(JunitPart, usize)>,
    is_pytest: bool,
    said: Option<u64>,
    found: u64,
}

impl JunitXml {
    fn finish(&mut self, sheet: &mut Sheet) {
        let Some(case) = self.case.take() else { return };
        self.found += 1;
        let entry = case.entry();
        sheet.add(entry);
    }
}

impl JunitCase {
    fn status(&self) -> SubtestStatus {
        let is_broken = self.is_skipped && BROKEN.iter().any(|why| self.message.starts_with(why));
        if (self.is_failed || self.is_error) && self.is_skipped {
            SubtestStatus::Xfail
        } else if self.is_failed {
            SubtestStatus::Failed
        } else if self.is_error || is_broken {
            SubtestStatus::Error
        } else if self.is_skipped && self.is_expected {
            SubtestStatus::Xfail
        } else if self.is_skipped || self.is_disabled {
            SubtestStatus::Skipped
        } else {
            SubtestStatus::Passed
        }
    }

    fn entry(self) -> Entry {
        let status = self.status();
        let (class, name) = full_name(self.class.as_deref(), &self.name);
        let told = status != SubtestStatus::Passed || self.is_flaky;
        let mut entry = Entry { took_ms: self.took_ms, flaky: self.is_flaky, ..Entry::new(&class, "::", &name) };
        entry.status = Some(status);
        let texts = [self.message.as_str(), self.text.as_str(), self.err.as_str(), self.out.as_str()];
        if told {
            entry.message =
                texts.iter().map(|text| place::reason(text)).find(|text| !text.is_empty()).unwrap_or_default();
        }
        let written = self.file.as_deref().and_then(|file| CodePlace::new(file, self.line));
        // Where it failed is worth more than where it was written; what it printed comes last.
        let found = texts.iter().find_map(|text| CodePlace::find(text, self.file.as_deref()));
        entry.place = if status.is_failure() || self.is_flaky { found.or(written) } else { written };
        entry
    }
}

impl Handler for JunitXml {
    fn open(&mut self, element: &Element, _: &mut Sheet) {
        if let Some((_, depth)) = &mut self.part {
            *depth += 1;
            return;
        }
        match element.name.as_str() {
            "testsuites" | "testsuite" => {
                let count = element.get("tests").and_then(|count| count.parse::<u64>().ok());
                if self.suites.is_empty() {
                    self.said = count;
                }
                let name = element.get("name").unwrap_or_default();
                self.is_pytest |= name == "pytest" || name == "pytest tests";
                let file = element.get("file").map(str::to_owned);
                let around = self.suites.last().cloned().flatten();
                self.suites.push(file.or(around));
            }
            "testcase" => {
                let line = element.get("line").and_then(|line| line.trim().parse::<u32>().ok());
                let is_disabled =
                    element.get("status") == Some("disabled") || element.get("result") == Some("suppressed");
                self.case = Some(JunitCase {
                    name: element.get("name").unwrap_or_default().to_owned(),
                    class: element.get("classname").or(element.get("class")).map(str::to_owned),
                    file: element.get("file").map(str::to_owned).or_else(|| self.suites.last().cloned().flatten()),
                    // pytest counts lines from 0.
                    line: line.map(|line| line.saturating_add(u32::from(self.is_pytest))),
                    took_ms: element.get("time").and_then(words::parse_seconds),
                    is_disabled,
                    ..JunitCase::default()
                });
            }
            name => {
                let (Some(case), Some(part)) = (&mut self.case, JunitPart::of(name)) else { return };
                let is_first = !case.is_failed && !case.is_error;
                match part {
                    JunitPart::Failure => case.is_failed = true,
                    JunitPart::Error => case.is_error = true,
                    JunitPart::Skipped => {
                        case.is_skipped = true;
                        case.is_expected |= element.get("type") == Some("pytest.xfail");
                    }
                    JunitPart::Flaky => case.is_flaky = true,
                    JunitPart::Rerun | JunitPart::Out | JunitPart::Err => {}
                }
                let says =
                    matches!(part, JunitPart::Failure | JunitPart::Error | JunitPart::Skipped | JunitPart::Flaky);
                // Why it was to fail is said first, and is what one wants to know.
                if says && is_first && case.message.is_empty() {
                    element.get("message").unwrap_or_default().clone_into(&mut case.message);
                }
                self.part = Some((part, 0));
            }
        }
    }

    fn text(&mut self, text: &str) {
        let (Some(case), Some((part, _))) = (&mut self.case, self.part) else { return };
        match part {
            JunitPart::Out => case.out.push(text),
            JunitPart::Err => case.err.push(text),
            JunitPart::Rerun => {}
            _ => case.text.push(text),
        }
    }

    fn close(&mut self, name: &str, sheet: &mut Sheet) {
        match &mut self.part {
            Some((_, depth)) if *depth > 0 => *depth -= 1,
            Some(_) => self.part = None,
            None => match name {
                "testcase" => self.finish(sheet),
                "testsuites" | "testsuite" => drop(self.suites.pop()),
                _ => {}
            },
        }
    }

    fn inside(&self) -> Option<String> {
        self.case.as_ref().map(|case| words::name(&case.name))
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if let Some(said) = self.said.filter(|said| *said != self.found && sheet.summary().incomplete.is_empty()) {
            sheet.summary().warn(format!("its head says {said} tests, {} were found", self.found));
        }
    }
}
