//! Which logs a record has of a guest and of a case.

use super::logs::LogSource;
use std::{
    cmp::Reverse,
    fs,
    path::{Component, Path, PathBuf},
};
use vmdeck_model::ids::{CaseId, GuestId};

/// The name of the log of a guest's newest machine.
pub(crate) const CONSOLE: &str = "console";
/// How deep the logs of a guest lie: `SUITE/CASE/round-2/attempt-2/+after_each`.
const DEPTH: usize = 5;
/// How much of a log's end is looked at for a line, in bytes.
const BYTES: u64 = 256 * 1024;

/// Returns every log of a guest in a record, the console first.
pub(crate) fn of_guest(record: &Path, guest: &GuestId) -> Vec<LogSource> {
    let home = home(record, guest);
    let mut out = below(&home, guest, &home);
    out.sort_by_key(|s| (s.label != CONSOLE, !s.label.starts_with(CONSOLE), s.label.clone()));
    out
}

fn home(record: &Path, guest: &GuestId) -> PathBuf {
    record.join("guests").join(guest.as_str())
}

/// Returns the logs of a guest in a folder below its home.
fn below(folder: &Path, guest: &GuestId, home: &Path) -> Vec<LogSource> {
    let mut files = Vec::new();
    collect(folder, 0, &mut files);
    files
        .into_iter()
        .filter_map(|path| {
            let name = path.strip_prefix(home).ok()?.with_extension("");
            let label = match (name.parent(), name.file_name()) {
                (Some(parent), Some(file)) if !parent.as_os_str().is_empty() => {
                    format!("{} {}", parent.display(), file.to_string_lossy())
                }
                _ => name.display().to_string(),
            };
            Some(LogSource { guest: guest.clone(), label, path })
        })
        .collect()
}

/// Returns the logs of exactly this case: those of its last round and attempt first, of these standard error, the empty ones last.
pub(crate) fn of_case(record: &Path, guest: &GuestId, suite: &str, case: &str) -> Vec<LogSource> {
    // A record may be anybody's, and its names lead wherever they like.
    let Ok(case) = CaseId::try_from(case.to_owned()) else { return Vec::new() };
    if !is_one_name(suite) {
        return Vec::new();
    }
    // Only its own folder is read: a guest may have thousands of cases.
    let home = home(record, guest);
    let folder = home.join(suite).join(case.folder());
    let mut own = below(&folder, guest, &home);
    own.sort_by(|a, b| a.label.cmp(&b.label));
    let is_empty = |source: &LogSource| fs::metadata(&source.path).is_ok_and(|file| file.len() == 0);
    // What was run around it is not what somebody looks for first.
    let is_around = |source: &LogSource| source.path.iter().any(|part| part.to_string_lossy().starts_with('+'));
    own.sort_by_key(|source| (is_empty(source), is_around(source), Reverse(attempt(&source.path, &folder))));
    own
}

fn is_one_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// Returns the suite and the case that a log is of, by where it lies; `None` = it is of none.
pub(crate) fn case_of(record: &Path, log: &LogSource) -> Option<(String, String)> {
    let mut parts = log.path.strip_prefix(home(record, &log.guest)).ok()?.iter().map(|part| part.to_string_lossy());
    let (suite, case, _file) = (parts.next()?, parts.next()?, parts.next()?);
    Some((suite.into_owned(), CaseId::of_folder(&case)?.to_string()))
}

/// Returns the first of these logs whose end has this line.
pub(crate) fn with_line<'a>(logs: &'a [LogSource], line: Option<&str>) -> Option<&'a LogSource> {
    let line = line?;
    logs.iter().find(|log| memchr::memmem::find(&vmdeck_files::read_tail(&log.path, BYTES), line.as_bytes()).is_some())
}

/// Returns the round and the attempt that a log of a case in this folder is of, each from 1.
fn attempt(log: &Path, folder: &Path) -> (u32, u32) {
    let below = log.strip_prefix(folder).unwrap_or(log);
    let number = |word: &str| {
        let mut named = below.iter().filter_map(|part| part.to_str()?.strip_prefix(word)?.parse().ok());
        named.next_back().unwrap_or(1)
    };
    (number("round-"), number("attempt-"))
}

fn collect(folder: &Path, depth: usize, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) && depth < DEPTH {
            collect(&path, depth + 1, out);
        } else if kind.is_ok_and(|k| k.is_file()) && path.extension().is_some_and(|e| e == "log" || e == "txt") {
            out.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_attempt_comes_first_and_empty_logs_last() {
        let home = tempfile::tempdir().expect("tempdir");
        let guest = GuestId::new("deb").expect("name");
        let all = [
            ("install/stdout.log", "first\n"),
            ("install/stderr.log", ""),
            ("install/attempt-10/stdout.log", "tenth: boom\n"),
            ("install/attempt-2/stdout.log", "second\n"),
            ("install/round-2/stderr.log", "round 2\n"),
            ("install-all/stdout.log", "another case\n"),
        ];
        for (name, text) in all {
            let path = home.path().join("guests/deb/smoke").join(name);
            fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            fs::write(path, text).expect("log");
        }
        let logs = of_case(home.path(), &guest, "smoke", "install");
        let labels: Vec<&str> = logs.iter().map(|log| log.label.as_str()).collect();
        let want = ["/round-2 stderr", "/attempt-10 stdout", "/attempt-2 stdout", " stdout", " stderr"];
        assert_eq!(labels, want.map(|end| format!("smoke/install{end}")));
        assert_eq!(
            with_line(&logs, Some("boom")).map(|log| &log.label),
            Some(&"smoke/install/attempt-10 stdout".to_owned())
        );
        for (suite, case) in
            [("..", "deb"), ("smoke", "/etc"), ("smoke", ".."), ("", "install"), ("smoke", "install/attempt-2")]
        {
            assert_eq!(of_case(home.path(), &guest, suite, case), [], "{suite} {case}");
        }
        assert_eq!(case_of(home.path(), &logs[0]), Some(("smoke".into(), "install".into())));
        let console = LogSource { guest, label: CONSOLE.into(), path: home.path().join("guests/deb/console.log") };
        assert_eq!(case_of(home.path(), &console), None);
        assert!(with_line(&logs, Some("another")).is_none() && with_line(&logs, None).is_none());
    }
}
