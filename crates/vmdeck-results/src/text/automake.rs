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
}

/// Returns the status and the name of a line that tells a result.
pub(crate) fn result(text: &str) -> Option<(SubtestStatus, &str)> {
    let (word, name) = text.split_once(": ")?;
    let status = WORDS.iter().find(|(known, _)| *known == word)?.1;
    (!name.trim().is_empty()).then_some((status, name.trim()))
}

impl Automake {
    pub(crate) fn new(stem: &str) -> Self {
        Self { stem: stem.to_owned(), unnamed: Vec::new(), is_file: false, is_closed: false }
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
        } else if text.starts_with("# TOTAL: ") {
            self.is_closed = true;
        } else if let Some((status, name)) = result(text).filter(|_| !self.is_file) {
            self.is_closed = false;
            let directive = [" # SKIP", " # TODO"].iter().find_map(|word| name.split_once(word));
            let (name, why) = directive.unwrap_or((name, ""));
            let id = sheet.add(Entry::new("", "", name).ended(status).because(why));
            sheet.settle(id);
        }
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
