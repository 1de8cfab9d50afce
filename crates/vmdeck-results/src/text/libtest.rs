//! The text of Rust's own test harness, one run after the other.
//!
//! What a test prints may stand on the line of its name; only a word that the harness writes ends it.

use crate::{
    line::Line,
    place::{self, CodePlace},
    reader::LineReader,
    sheet::{Entry, Id, Sheet},
};
use std::collections::HashMap;
use vmdeck_model::subtest::SubtestStatus;

/// What the harness writes behind the name of a test that is not run in the usual way.
const KINDS: [&str; 3] = [" - should panic", " - compile fail", " - compile"];
/// Most lines of a failure that are looked at.
const LINES: usize = 200;

/// One run of a test program.
#[derive(Default)]
struct LibtestRun {
    failed: HashMap<String, Id>,
    /// The test whose result is not there yet, and what it has printed last.
    open: Option<(Option<Id>, String, String)>,
    seen: u32,
    /// The failure that is being told.
    block: Option<(String, String, usize)>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Libtest {
    run: Option<LibtestRun>,
    /// Whether a test or the end of a run has been seen.
    is_sure: bool,
}

/// Returns the status that a word of the harness stands for, and the reason behind it.
fn status(word: &str) -> Option<(SubtestStatus, &str)> {
    if let Some(why) = word.strip_prefix("ignored") {
        return (why.is_empty() || why.starts_with(", "))
            .then(|| (SubtestStatus::Skipped, why.trim_start_matches(", ")));
    }
    // With the time that a test took: `ok <0.001s>`.
    let bare = word.split_once(" <").filter(|(_, time)| time.ends_with("s>")).map_or(word, |(bare, _)| bare);
    match bare {
        "ok" => Some((SubtestStatus::Passed, "")),
        "FAILED" => Some((SubtestStatus::Failed, "")),
        _ => word.starts_with("bench:").then_some((SubtestStatus::Passed, "")),
    }
}

impl Libtest {
    fn begin(&mut self, sheet: &mut Sheet) {
        if self.run.is_some() {
            sheet.summary().lacks("a run did not end");
            self.finish(sheet);
        }
        sheet.begin_session();
        self.run = Some(LibtestRun::default());
    }

    fn finish(&mut self, sheet: &mut Sheet) {
        self.run = None;
        sheet.end_running("");
    }

    /// Takes the line with which a run ends.
    fn total(&mut self, text: &str, sheet: &mut Sheet) {
        let Some(mut run) = self.run.take() else { return };
        self.is_sure = true;
        run.tell(sheet);
        let count = |word: &str| {
            let number = text.split_once(&format!(" {word}"))?.0.rsplit(' ').next()?;
            number.parse::<u32>().ok()
        };
        if run.seen == 0 {
            // With `-q` there are dots in place of names.
            for (word, status) in [
                ("passed", SubtestStatus::Passed),
                ("failed", SubtestStatus::Failed),
                ("ignored", SubtestStatus::Skipped),
                ("measured", SubtestStatus::Passed),
            ] {
                sheet.add_unnamed(status, count(word).unwrap_or(0));
            }
        }
        if run.open.is_some() {
            sheet.summary().lacks("a test did not end");
        }
        sheet.end_running("");
        sheet.claim_failures(count("failed").unwrap_or(0));
    }

    fn test(&mut self, rest: &str, line: &Line, sheet: &mut Sheet) {
        let Some(run) = &mut self.run else { return };
        let Some((name, word)) = rest.split_once(" ... ").or_else(|| rest.strip_suffix(" ...").map(|name| (name, "")))
        else {
            return;
        };
        self.is_sure = true;
        run.give_up(sheet);
        let name = KINDS.iter().find_map(|kind| name.strip_suffix(kind)).unwrap_or(name);
        run.seen += 1;
        if let Some((status, why)) = status(word).filter(|_| !line.is_cut) {
            let id = sheet.add(Entry::new("", "", name).ended(status).because(why));
            run.ended(name, id, status);
        } else {
            let id = sheet.add(Entry::new("", "", name));
            run.open = Some((id, name.to_owned(), word.to_owned()));
        }
    }
}

impl LibtestRun {
    /// Ends the open test by a word of the harness.
    fn end_open(&mut self, word: &str, sheet: &mut Sheet) -> bool {
        let Some((status, why)) = status(word) else { return false };
        let Some((id, name, _)) = self.open.take() else { return false };
        sheet.end(id, status);
        if let Some(entry) = sheet.entry(id) {
            entry.message = crate::words::message(why);
        }
        self.ended(&name, id, status);
        true
    }

    /// The next test begins: what the open one printed may hide its end.
    fn give_up(&mut self, sheet: &mut Sheet) {
        let Some((_, _, said)) = &self.open else { return };
        let word = ["ok", "FAILED"].into_iter().find(|word| said.ends_with(word));
        if let Some(word) = word {
            self.end_open(word, sheet);
        } else {
            sheet.summary().lacks("a test did not end");
            self.open = None;
        }
    }

    fn ended(&mut self, name: &str, id: Option<Id>, status: SubtestStatus) {
        if status.is_failure()
            && let Some(id) = id
        {
            self.failed.insert(name.to_owned(), id);
        }
    }

    /// Puts the failure that was told into its test.
    fn tell(&mut self, sheet: &mut Sheet) {
        let Some((name, text, _)) = self.block.take() else { return };
        let Some(entry) = sheet.entry(self.failed.get(&name).copied()) else { return };
        entry.place = CodePlace::find(&text, None);
        entry.message = place::reason(&text);
    }
}

impl LineReader for Libtest {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        let text = line.text.as_str();
        let count = text.strip_prefix("running ").and_then(|rest| rest.split_once(" test"));
        if let Some((count, "" | "s")) = count
            && let Ok(count) = count.parse::<u64>()
        {
            self.begin(sheet);
            return sheet.expect_more(count);
        }
        if self.run.is_some() && text.starts_with("test result: ") && !line.is_cut {
            return self.total(text, sheet);
        }
        let Some(run) = &mut self.run else { return };
        let heading = text.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----"));
        if let Some(name) = heading {
            run.tell(sheet);
            let name = name.strip_suffix(" stdout").or_else(|| name.strip_suffix(" stderr")).unwrap_or(name);
            run.block = Some((name.to_owned(), String::new(), 0));
            return;
        }
        if let Some((_, told, lines)) = &mut run.block {
            if text == "failures:" {
                return run.tell(sheet);
            }
            if *lines < LINES {
                *lines += 1;
                told.push_str(text);
                told.push('\n');
            }
            return;
        }
        if let Some(rest) = text.strip_prefix("test ") {
            return self.test(rest, line, sheet);
        }
        if line.is_cut || run.end_open(text, sheet) {
            return;
        }
        if let Some((_, _, said)) = &mut run.open {
            text.clone_into(said);
        }
    }

    fn is_certain(&self) -> bool {
        self.is_sure
    }

    fn is_closed(&self) -> bool {
        self.run.is_none()
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if let Some(mut run) = self.run.take() {
            run.tell(sheet);
            sheet.summary().lacks("a run did not end");
        }
        sheet.end_running("");
    }
}
