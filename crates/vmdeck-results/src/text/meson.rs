//! The text of `meson test`, and its `testlog.json` with an object on each line. The latter has no mark of its end.

use crate::{
    line::Line,
    reader::LineReader,
    sheet::{Entry, Sheet},
    words,
};
use serde::Deserialize;
use std::borrow::Cow;
use vmdeck_model::subtest::SubtestStatus;

#[derive(Deserialize)]
struct MesonTest<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    result: Cow<'a, str>,
    #[serde(default)]
    duration: Option<f64>,
    #[serde(default)]
    returncode: Option<i64>,
}

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a session")]
#[derive(Default)]
pub(crate) struct Meson {
    is_text: bool,
    is_closed: bool,
    /// Whether what failed is told once more.
    is_told_again: bool,
    /// Whether a test of this session has ended.
    is_begun: bool,
    /// How many failed, by the last lines of this session.
    failures: u32,
}

/// The words of meson, with what they mean.
const WORDS: [(&str, SubtestStatus); 10] = [
    ("OK", SubtestStatus::Passed),
    ("FAIL", SubtestStatus::Failed),
    ("ERROR", SubtestStatus::Error),
    ("TIMEOUT", SubtestStatus::Failed),
    ("SKIP", SubtestStatus::Skipped),
    ("EXPECTEDFAIL", SubtestStatus::Xfail),
    ("UNEXPECTEDPASS", SubtestStatus::Xpass),
    ("INTERRUPT", SubtestStatus::Error),
    ("EXPECTED FAIL", SubtestStatus::Xfail),
    ("UNEXPECTED PASS", SubtestStatus::Xpass),
];

fn status(word: &str) -> SubtestStatus {
    WORDS.iter().find(|(known, _)| *known == word).map_or(SubtestStatus::Error, |(_, status)| *status)
}

fn reason(word: &str, status: SubtestStatus, code: Option<i64>) -> String {
    match (status, code) {
        (SubtestStatus::Xpass, _) => "passed although it should fail".to_owned(),
        _ if word == "TIMEOUT" => "timed out".to_owned(),
        (SubtestStatus::Failed | SubtestStatus::Error, Some(code)) if code < 0 => format!("signal {}", -code),
        (SubtestStatus::Failed | SubtestStatus::Error, Some(code)) if code > 0 => format!("exit {code}"),
        (SubtestStatus::Failed | SubtestStatus::Error, _) => word.to_owned(),
        _ => String::new(),
    }
}

/// What a line of the text says of a test that has ended.
pub(crate) struct MesonLine<'a> {
    at: u64,
    total: u64,
    name: &'a str,
    word: &'static str,
    took_ms: Option<u64>,
    more: &'a str,
}

/// Reads ` 3/10 suite / name    FAIL    0.05s   exit status 3`.
pub(crate) fn console(text: &str) -> Option<MesonLine<'_>> {
    let (count, rest) = text.trim_start().split_once(' ')?;
    let (at, total) = count.split_once('/')?;
    let (at, total) = (at.parse().ok()?, total.parse().ok()?);
    for (word, _) in WORDS {
        for (from, _) in rest.match_indices(word) {
            let (name, after) = (&rest[..from], rest[from + word.len()..].trim_start());
            let Some((time, more)) = after.split_once('s') else { continue };
            let is_apart = name.ends_with("  ") || (name.ends_with(' ') && rest[from + word.len()..].starts_with("  "));
            if let (true, Ok(seconds)) = (is_apart, time.parse::<f64>()) {
                let took_ms = words::millis(seconds);
                return Some(MesonLine { at, total, name: name.trim_end(), word, took_ms, more: more.trim() });
            }
        }
    }
    None
}

impl LineReader for Meson {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        if text.starts_with('{') {
            let Ok(test) = serde_json::from_str::<MesonTest<'_>>(text) else {
                if line.is_cut {
                    sheet.summary().lacks("the last line is cut");
                }
                return;
            };
            let status = status(&test.result);
            let entry =
                Entry::new("", "", &test.name).ended(status).because(&reason(&test.result, status, test.returncode));
            let id = sheet.add(Entry { took_ms: test.duration.and_then(words::millis), ..entry });
            return sheet.settle(id);
        }
        if line.is_cut {
            return;
        }
        if text.starts_with("Summary of Failures:") {
            self.is_told_again = true;
            return;
        }
        if let Some(MesonLine { at, total, name, word, took_ms, more }) = console(text).filter(|_| !self.is_told_again)
        {
            if at == 1 && self.is_begun {
                sheet.summary().lacks("a run did not end");
            }
            if !self.is_begun {
                sheet.begin_session();
                self.failures = 0;
            }
            (self.is_text, self.is_closed, self.is_begun) = (true, false, true);
            sheet.expect(total);
            let status = status(word);
            let why = if more.is_empty() { reason(word, status, None) } else { more.to_owned() };
            let entry = Entry::new("", "", name).ended(status);
            let entry = if status == SubtestStatus::Passed { entry } else { entry.because(&why) };
            let id = sheet.add(Entry { took_ms, ..entry });
            return sheet.settle(id);
        }
        if text.starts_with("Ok: ") {
            (self.is_text, self.is_closed, self.is_told_again, self.is_begun) = (true, true, false, false);
        }
        let count = |word: &str| text.strip_prefix(word).and_then(|rest| rest.trim().parse::<u32>().ok());
        if let Some(count) = count("Fail: ").or_else(|| count("Timeout: ")).filter(|_| self.is_closed) {
            self.failures += count;
            sheet.claim_failures(self.failures);
        }
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if self.is_text && !self.is_closed {
            sheet.summary().lacks("no closing line");
        }
    }
}
