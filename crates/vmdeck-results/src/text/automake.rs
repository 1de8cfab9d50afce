//! The text of `make check` as Automake writes it, and the `.trs` file of a single test.

use crate::{
    line::Line,
    reader::LineReader,
    sheet::{Entry, Sheet},
};
use vmdeck_model::subtest::SubtestStatus;

/// The words before a name.
const WORDS: [(&str, SubtestStatus); 6] = [
    ("PASS", SubtestStatus::Passed),
    ("FAIL", SubtestStatus::Failed),
    ("SKIP", SubtestStatus::Skipped),
    ("XFAIL", SubtestStatus::Xfail),
    ("XPASS", SubtestStatus::Xpass),
    ("ERROR", SubtestStatus::Error),
];

/// Most results of one file.
const MOST: usize = 10_000;

/// See the module.
pub(crate) struct Automake {
    /// The name of the test whose file it is.
    stem: String,
    /// The results of a file, which have no names.
    unnamed: Vec<SubtestStatus>,
    is_file: bool,
    is_closed: bool,
    /// Whether a result of this session has come.
    is_begun: bool,
}

/// Returns the status and the name of a line that tells a result.
pub(crate) fn result(text: &str) -> Option<(SubtestStatus, &str)> {
    let (word, name) = text.split_once(": ")?;
    let status = WORDS.iter().find(|(known, _)| *known == word)?.1;
    (!name.trim().is_empty()).then_some((status, name.trim()))
}

impl Automake {
    /// Returns how many failed, where a line after the total says so.
    fn claimed(&self, text: &str) -> Option<u32> {
        let counted = |word: &str| text.strip_prefix(word).and_then(|rest| rest.trim().parse().ok());
        counted("# FAIL:").or_else(|| counted("# ERROR:")).filter(|_| self.is_closed)
    }

    pub(crate) fn new(stem: &str) -> Self {
        Self { stem: stem.to_owned(), unnamed: Vec::new(), is_file: false, is_closed: false, is_begun: false }
    }
}

impl LineReader for Automake {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        if line.is_cut {
            return;
        }
        if let Some(word) = text.strip_prefix(":test-result: ") {
            self.is_file = true;
            let word = word.split_whitespace().next().unwrap_or_default();
            let status = WORDS.iter().find(|(known, _)| *known == word).map_or(SubtestStatus::Error, |(_, s)| *s);
            if self.unnamed.len() < MOST {
                self.unnamed.push(status);
            } else {
                sheet.add_unnamed(status, 1);
            }
        } else if text.starts_with(":global-test-result: ") {
            (self.is_file, self.is_closed) = (true, true);
        } else if text.trim_end().ends_with(" check-TESTS") && !text.starts_with("make[") {
            if self.is_begun && !self.is_closed {
                sheet.summary().lacks("a run did not end");
            }
            (self.is_begun, self.is_closed) = (false, false);
            sheet.begin_session();
        } else if text.starts_with("# TOTAL: ") {
            self.is_closed = true;
        } else if let Some(count) = self.claimed(text) {
            sheet.claim_failures(count);
        } else if let Some((status, name)) = result(text).filter(|_| !self.is_file && !self.is_closed) {
            // What comes after the counts is a log that is shown.
            self.is_begun = true;
            let directive = [" # SKIP", " # TODO"].iter().find_map(|word| name.split_once(word));
            let (name, why) = directive.unwrap_or((name, ""));
            let id = sheet.add(Entry::new("", "", name).ended(status).because(why));
            sheet.settle(id);
        }
    }

    fn is_certain(&self) -> bool {
        self.is_closed || self.is_file
    }

    fn is_closed(&self) -> bool {
        self.is_closed && !self.is_file
    }

    fn end(&mut self, sheet: &mut Sheet) {
        let is_alone = self.unnamed.len() == 1;
        for (at, status) in self.unnamed.drain(..).enumerate() {
            let entry = if is_alone {
                Entry::new("", "", &self.stem)
            } else {
                Entry::new(&self.stem, " > ", &(at + 1).to_string())
            };
            sheet.add(entry.ended(status));
        }
        if !self.is_closed {
            sheet.summary().lacks("no closing line");
        }
        sheet.settle_ended();
    }
}
