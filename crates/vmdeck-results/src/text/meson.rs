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
#[derive(Default)]
pub(crate) struct Meson {
    is_text: bool,
    is_closed: bool,
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

/// Reads ` 3/10 suite / name    FAIL    0.05s   exit status 3`.
fn console(text: &str) -> Option<(u64, &str, &str, Option<u64>, &str)> {
    let (count, rest) = text.trim_start().split_once(' ')?;
    let (at, total) = count.split_once('/')?;
    at.parse::<u64>().ok()?;
    for (word, _) in WORDS {
        for (from, _) in rest.match_indices(word) {
            let (name, after) = (&rest[..from], rest[from + word.len()..].trim_start());
            let Some((time, more)) = after.split_once('s') else { continue };
            let is_apart = name.ends_with("  ") || (name.ends_with(' ') && rest[from + word.len()..].starts_with("  "));
            if let (true, Ok(seconds)) = (is_apart, time.parse::<f64>()) {
                return Some((total.parse().ok()?, name.trim_end(), word, words::millis(seconds), more.trim()));
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
        if let Some((total, name, word, took_ms, more)) = console(text) {
            (self.is_text, self.is_closed) = (true, false);
            sheet.expect(total);
            let status = status(word);
            let why = if more.is_empty() { reason(word, status, None) } else { more.to_owned() };
            let entry = Entry::new("", "", name).ended(status);
            let entry = if status == SubtestStatus::Passed { entry } else { entry.because(&why) };
            let id = sheet.add(Entry { took_ms, ..entry });
            return sheet.settle(id);
        }
        if text.starts_with("Ok: ") {
            (self.is_text, self.is_closed) = (true, true);
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
