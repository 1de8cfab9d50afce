//! What the page shows of the logs in a record: their ends, made safe.

use std::path::Path;
use vmdeck_model::{ids::GuestId, run_view::EndedCase, secret::Redactor, text::LineSplitter};

/// Most bytes of one log.
const MOST: u64 = 48 * 1024;

/// The end of a log.
pub(super) struct LogEnd {
    /// Its path within the record.
    pub(super) name: String,
    pub(super) text: String,
    /// Whether there is more before it.
    pub(super) is_cut: bool,
}

/// Returns the ends of the logs of a case that are not empty: of its last attempt in this round, and of what was run around it.
pub(super) fn of_case(record: &Path, case: &EndedCase) -> Vec<LogEnd> {
    let mut folder = Path::new("guests").join(case.guest.as_str()).join(case.suite.as_str()).join(case.case.folder());
    if case.round > 1 {
        folder.push(format!("round-{}", case.round));
    }
    let attempt = (2..=64).rev().map(|n| folder.join(format!("attempt-{n}"))).find(|dir| record.join(dir).is_dir());
    let folder = attempt.unwrap_or(folder);
    let mut out = Vec::new();
    for part in ["", "+before_each", "+on_failure", "+after_each"] {
        for name in ["stderr.log", "stdout.log"] {
            out.extend(end(record, &folder.join(part).join(name)));
        }
    }
    out
}

/// Returns the end of a guest's console, without the secrets of the run.
pub(super) fn of_console(record: &Path, guest: &GuestId, redactor: &Redactor) -> Option<LogEnd> {
    let mut log = end(record, &Path::new("guests").join(guest.as_str()).join("console.log"))?;
    if log.is_cut {
        // The first line may begin within a secret.
        log.text = log.text.split_once('\n').map(|(_, rest)| rest.to_owned())?;
    }
    log.text = redactor.text(&log.text);
    Some(log)
}

fn end(record: &Path, name: &Path) -> Option<LogEnd> {
    let path = record.join(name);
    let size = std::fs::symlink_metadata(&path).ok().filter(std::fs::Metadata::is_file)?.len();
    let bytes = vmdeck_files::read_tail(&path, MOST);
    let mut lines = Vec::new();
    let mut splitter = LineSplitter::default();
    splitter.feed(&bytes, |line| lines.push(line.into_string()));
    splitter.finish(|line| lines.push(line.into_string()));
    let text = lines.join("\n");
    let is_cut = size > MOST;
    (!text.trim().is_empty()).then(|| LogEnd { name: name.display().to_string(), text, is_cut })
}
