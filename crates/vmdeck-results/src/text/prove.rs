//! The text of `prove`: a line for each test file, and one with the whole result.

use crate::{
    line::Line,
    reader::LineReader,
    sheet::{Entry, Sheet},
};
use vmdeck_model::subtest::SubtestStatus;

/// See the module.
#[derive(Default)]
pub(crate) struct Prove {
    /// The file whose result is on its own line.
    open: Option<String>,
    is_closed: bool,
}

/// Returns a test file and what stands behind its dots.
fn file(text: &str) -> Option<(&str, &str)> {
    let (name, word) = text.trim_end().split_once(" .. ").or_else(|| {
        let dots = text.trim_end().find(" ...")?;
        let (name, rest) = text.trim_end().split_at(dots);
        let rest = rest[1..].trim_start_matches('.');
        (rest.is_empty() || rest.starts_with(' ')).then_some((name, rest.trim_start()))
    })?;
    let is_name = !name.contains(' ') && (name.contains(".t") || name.contains('/'));
    is_name.then_some((name, word))
}

/// Returns whether the text of `prove` can begin with this line.
pub(crate) fn is_start(text: &str) -> bool {
    file(text).is_some_and(|(_, word)| status(word).is_some())
}

fn status(word: &str) -> Option<(SubtestStatus, &str)> {
    match word {
        "ok" => Some((SubtestStatus::Passed, "")),
        _ if word.starts_with("ok ") && word.ends_with(" ms") => Some((SubtestStatus::Passed, "")),
        _ if word.starts_with("skipped") => {
            Some((SubtestStatus::Skipped, word.trim_start_matches("skipped").trim_start_matches([':', ' '])))
        }
        _ if word.starts_with("Failed ") || word.starts_with("No subtests run") => Some((SubtestStatus::Failed, word)),
        _ if word.starts_with("Dubious") || word.starts_with("All ") => Some((SubtestStatus::Failed, word)),
        _ => None,
    }
}

impl Prove {
    fn record(name: &str, status: SubtestStatus, why: &str, sheet: &mut Sheet) {
        let id = sheet.add(Entry::new("", "", name).ended(status).because(why));
        sheet.settle(id);
    }
}

impl LineReader for Prove {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.trim_end();
        if line.is_cut {
            return;
        }
        if text.starts_with("Result: ") {
            self.is_closed = true;
            return;
        }
        if let Some((name, word)) = file(text) {
            self.is_closed = false;
            match status(word) {
                Some((status, why)) => Self::record(name, status, why, sheet),
                // What the file writes to standard error pushes its result to a line of its own.
                None => self.open = Some(name.to_owned()),
            }
        } else if let Some((status, why)) = status(text)
            && let Some(name) = self.open.take()
        {
            Self::record(&name, status, why, sheet);
        }
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if let Some(name) = self.open.take() {
            let id = sheet.add(Entry::new("", "", &name));
            sheet.did_not_end(id, "");
        }
        if !self.is_closed {
            sheet.summary().lacks("no closing line");
        }
        sheet.settle_ended();
    }
}
