//! All errors of a run in one list: each case that failed and each guest that did not boot, with the lines of their logs that say so.

use super::{
    logs::{
        LogSource,
        index::{LINE_MAX, split_lines},
    },
    record_logs,
};
use regex::bytes::Regex;
use std::{collections::HashSet, io::Read, path::Path};
use vmdeck_model::{
    evidence::ERRORS,
    ids::GuestId,
    run_view::{EndedCase, RunView, SubtestsView},
    select::word_of_case,
    text::Clean,
};

/// The most lines of one log that are listed.
const LINES: usize = 8;
/// How much of a log is looked through, in bytes.
const BYTES: u64 = 16 << 20;

/// Where a row of the list leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorPlace {
    /// A case, by its SELECT word.
    Case(String),
    /// A line of a log, counted from 0.
    Line(LogSource, u64),
    /// The console of a guest.
    Console(GuestId),
    /// The whole run: there is no log of it.
    Run,
}

/// A row of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRow {
    /// What is said.
    pub text: String,
    /// Where the row leads.
    pub place: ErrorPlace,
}

impl ErrorRow {
    /// Returns whether the row tells of a line that belongs to the row above it.
    pub fn is_line(&self) -> bool {
        matches!(self.place, ErrorPlace::Line(..))
    }
}

/// Returns the errors of the run whose record is in `dir`; blocking.
pub fn collect(dir: &Path, view: &RunView) -> Vec<ErrorRow> {
    let mut out = Vec::new();
    let errors = Regex::new(ERRORS).ok();
    let lines = |log: &LogSource| errors.as_ref().map(|errors| lines(log, errors)).unwrap_or_default();
    for (id, guest) in &view.guests {
        if guest.boot_failed {
            let phase = guest.done.iter().rev().find(|(phase, _)| phase.is_boot()).map(|(phase, _)| phase.as_str());
            let text = format!("{id}: did not boot: it failed in {}", phase.unwrap_or("an unknown phase"));
            out.push(ErrorRow { text, place: ErrorPlace::Console(id.clone()) });
            let consoles = record_logs::of_guest(dir, id).into_iter().filter(|log| log.label == record_logs::CONSOLE);
            out.extend(consoles.flat_map(|log| lines(&log)));
        }
    }
    for case in last_failures(view) {
        let word = word_of_case(&case.suite, &case.case, &case.guest);
        let text = format!("{}: {}/{} {}: {}", case.guest, case.suite, case.case, case.verdict, case.why());
        out.push(ErrorRow { text: Clean::from_text(&text).into_string(), place: ErrorPlace::Case(word) });
        for subtest in case.subtests.iter().flat_map(SubtestsView::failed).take(LINES) {
            let why = if subtest.message.is_empty() { String::new() } else { format!(": {}", subtest.message) };
            let place = subtest.place().map(|place| format!(" ({place})")).unwrap_or_default();
            let text = format!("{}: {}/{}: {}{why}{place}", case.guest, case.suite, case.case, subtest.name);
            let place = ErrorPlace::Case(word_of_case(&case.suite, &case.case, &case.guest));
            out.push(ErrorRow { text: Clean::from_text(&text).into_string(), place });
        }
        let newest = record_logs::of_case(dir, &case.guest, case.suite.as_str(), case.case.as_str());
        let folder = newest.first().and_then(|log| log.path.parent().map(Path::to_owned));
        out.extend(newest.iter().filter(|log| log.path.parent() == folder.as_deref()).flat_map(lines));
    }
    for warning in &view.warnings {
        let who = warning.guest.as_ref().map(|guest| format!("{guest}: ")).unwrap_or_default();
        let place = warning.guest.clone().map_or(ErrorPlace::Run, ErrorPlace::Console);
        out.push(ErrorRow { text: Clean::from_text(&format!("{who}{}", warning.text)).into_string(), place });
    }
    let left = view.left().map(|left| ErrorRow { text: format!("not cleaned up: {left}"), place: ErrorPlace::Run });
    out.extend(left);
    out
}

/// Returns the last end of each case whose last end is a failure, in the order in which they ended.
fn last_failures(view: &RunView) -> Vec<&EndedCase> {
    let mut seen = HashSet::new();
    let newest = view.cases.iter().rev().filter(|case| seen.insert((&case.guest, &case.suite, &case.case)));
    let mut failures: Vec<&EndedCase> = newest.filter(|case| case.verdict.is_failure()).collect();
    failures.reverse();
    failures
}

/// Returns the first lines of a log that report an error.
fn lines(log: &LogSource, errors: &Regex) -> Vec<ErrorRow> {
    let mut bytes = Vec::new();
    let read = vmdeck_files::open(&log.path).and_then(|file| file.take(BYTES).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let (mut out, mut number) = (Vec::new(), 0);
    split_lines(&bytes, |piece| {
        if errors.is_match(piece.bytes) {
            let text = String::from_utf8_lossy(&piece.bytes[..piece.bytes.len().min(LINE_MAX / 64)]);
            let text = Clean::from_text(&text).into_string();
            out.push(ErrorRow { text: text.trim().to_owned(), place: ErrorPlace::Line(log.clone(), number) });
        }
        number += 1;
        out.len() < LINES
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{TestCockpit, guest};
    use vmdeck_model::outcome::Verdict;

    #[test]
    fn each_failure_is_there_once_with_its_lines() {
        let home = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, text: &str| {
            let path = home.path().join("guests").join(name);
            std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            std::fs::write(path, text).expect("log");
        };
        let flood: String = (0..30).map(|n| format!("error {n}\n")).collect();
        write("deb/smoke/install/stdout.log", "fine\nerror: \x1b[31mexpected 4, got 5\nfine\n");
        write("deb/smoke/install/attempt-2/stdout.log", "the second\nerror: the second one\n");
        write("win/smoke/install/stderr.log", &flood);
        let mut case = TestCockpit::with_run();
        case.case(10, "deb", "install", Verdict::Failed).case(20, "deb", "remove", Verdict::Failed);
        case.case(30, "deb", "remove", Verdict::Passed).case(40, "win", "install", Verdict::Infra);
        case.case(50, "deb", "install", Verdict::Failed);
        let rows = collect(home.path(), &case.model.shown.view);
        let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        assert_eq!(texts[..2], ["win: smoke/install infra: exit 3", "error 0"], "{texts:?}");
        assert_eq!(texts[1 + LINES..], ["deb: smoke/install failed: exit 3", "error: the second one"]);
        assert_eq!(rows[1 + LINES].place, ErrorPlace::Case("smoke/install@deb".into()));
        let ErrorPlace::Line(log, 1) = &rows[2 + LINES].place else { panic!("{:?}", rows[2 + LINES]) };
        assert!(log.path.ends_with("attempt-2/stdout.log") && log.guest == guest("deb"));
        assert_eq!(collect(home.path(), &RunView::default()), []);
    }
}
