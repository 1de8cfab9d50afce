//! The text of `prove`: a line for each test file, what was wrong with some of them, and a line with the whole result.

use crate::{
    line::Line,
    reader::LineReader,
    sheet::{Entry, Id, Sheet},
    words,
};
use std::collections::HashMap;
use vmdeck_model::subtest::SubtestStatus;

/// Most files of a session.
const MOST: usize = 10_000;

/// See the module.
#[derive(Default)]
pub(crate) struct Prove {
    /// The files of this session.
    files: HashMap<String, Option<Id>>,
    /// The file whose result is on a line of its own.
    open: Option<String>,
    /// The file of which the report on failures tells.
    reported: Option<String>,
    is_reporting: bool,
    is_closed: bool,
}

/// Returns a test file and what stands behind its dots.
fn file(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_end();
    // With `--timer`: `[19:50:49] good.t .. ok`.
    let text = match text.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if time.len() == 8 && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') => rest,
        _ => text,
    };
    let (name, rest) = text.split_once(" ..")?;
    let word = rest.trim_start_matches('.');
    let is_name = !name.contains(' ') && (ends_like_a_test(name) || name.contains('/'));
    (is_name && (word.is_empty() || word.starts_with(' '))).then(|| (name, word.trim_start()))
}

fn ends_like_a_test(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(stem, ending)| !stem.is_empty() && ["t", "sh", "pl", "py", "bats"].contains(&ending))
}

/// Returns whether the text of `prove` can begin with this line.
pub(crate) fn is_start(text: &str) -> bool {
    file(text)
        .is_some_and(|(name, word)| status(word).is_some() || (word.is_empty() && name.rsplit('.').next() == Some("t")))
}

fn status(word: &str) -> Option<(SubtestStatus, &str)> {
    let timed = || {
        word.strip_prefix("ok ")
            .is_some_and(|rest| rest.trim_start().starts_with(|c: char| c.is_ascii_digit()) && rest.contains(" ms"))
    };
    match word {
        "ok" => Some((SubtestStatus::Passed, "")),
        _ if timed() => Some((SubtestStatus::Passed, "")),
        _ if word.starts_with("skipped") => {
            Some((SubtestStatus::Skipped, word.trim_start_matches("skipped").trim_start_matches([':', ' '])))
        }
        _ if ["Failed ", "No subtests run", "Dubious", "All "].iter().any(|begin| word.starts_with(begin)) => {
            Some((SubtestStatus::Failed, word))
        }
        _ => None,
    }
}

impl Prove {
    fn record(&mut self, name: &str, status: SubtestStatus, why: &str, sheet: &mut Sheet) {
        let id = sheet.add(Entry::new("", "", name).ended(status).because(why));
        if self.files.len() < MOST {
            self.files.insert(name.to_owned(), id);
        }
    }

    /// Takes a line of the report on failures: `a.t (Wstat: 256 Tests: 2 Failed: 1)`, and below it what was wrong.
    fn report(&mut self, text: &str, sheet: &mut Sheet) {
        if let Some((name, _)) = text.split_once("(Wstat: ") {
            self.reported = Some(name.trim().to_owned());
            return;
        }
        let is_wrong = ["  Failed test", "  Parse errors:", "  Non-zero "].iter().any(|begin| text.starts_with(begin));
        let Some(name) = self.reported.clone().filter(|_| is_wrong) else { return };
        match self.files.get(&name).copied() {
            None => self.record(&name, SubtestStatus::Failed, text, sheet),
            Some(id) => {
                let is_red = sheet.entry(id).is_some_and(|entry| entry.status.is_some_and(SubtestStatus::is_failure));
                if !is_red {
                    sheet.end(id, SubtestStatus::Failed);
                    if let Some(entry) = sheet.entry(id) {
                        entry.message = words::message(text);
                    }
                }
            }
        }
    }

    fn close(&mut self, is_red: bool, sheet: &mut Sheet) {
        if let Some(name) = self.open.take() {
            let id = sheet.add(Entry::new("", "", &name));
            sheet.did_not_end(id, "");
        }
        if is_red {
            sheet.claim_failures(1);
        }
        (self.is_closed, self.is_reporting, self.reported) = (true, false, None);
        self.files.clear();
        sheet.settle_ended();
        sheet.begin_session();
    }
}

impl LineReader for Prove {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.trim_end();
        if line.is_cut {
            return;
        }
        if let Some(result) = text.strip_prefix("Result: ") {
            return self.close(result.starts_with("FAIL"), sheet);
        }
        if text == "Test Summary Report" {
            self.is_reporting = true;
        } else if let Some(why) = text.strip_prefix("Bailout called.") {
            sheet.summary().lacks(format!("bail out: {}", words::message(why)));
        } else if let Some(count) = text.strip_prefix("Files=").and_then(crate::place::leading_number) {
            let seen = u32::try_from(self.files.len()).unwrap_or(u32::MAX) + u32::from(self.open.is_some());
            if sheet.session().total() > count || seen > count {
                sheet.summary().lacks("a run did not end");
            }
        } else if self.is_reporting {
            self.report(text, sheet);
        } else if let Some((name, word)) = file(text) {
            self.is_closed = false;
            match status(word) {
                Some((status, why)) => self.record(name, status, why, sheet),
                // What the file writes to standard error, or `-v`, pushes its result to a line of its own.
                None => self.open = Some(name.to_owned()),
            }
        } else if let Some((status, why)) = status(text)
            && let Some(name) = self.open.take()
        {
            self.record(&name, status, why, sheet);
        }
    }

    fn is_certain(&self) -> bool {
        self.is_closed || self.files.len() > 1
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if !self.is_closed {
            sheet.summary().lacks("no closing line");
            self.close(false, sheet);
        }
    }
}
