//! What is different from the last time that a case passed: how long it took, how long its guest's boot took, what it wrote.

use super::{logs::LogSource, past_runs::GreenRun, record_logs, role::StyleRole};
use similar::{Algorithm, ChangeTag, TextDiff};
use std::{fmt::Write, time::Duration};
use vmdeck_model::{
    quantity::show_duration,
    run_view::{EndedCase, GuestView},
    text::Clean,
};

/// How much of a log is compared, in bytes: its end.
const BYTES: u64 = 1 << 20;
/// How many equal lines are shown around what differs.
const CONTEXT: usize = 3;
/// How long one log may be compared; what is found by then is right, if not the shortest way to say it.
const LIMIT: Duration = Duration::from_secs(2);

/// A line of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffLine {
    /// How it looks.
    pub role: StyleRole,
    /// The text.
    pub text: String,
}

/// Compares the end of a case with the run in which it passed; `logs` = those of the case now; blocking.
pub fn compare(case: &EndedCase, guest: Option<&GuestView>, logs: &[LogSource], green: &GreenRun) -> Vec<DiffLine> {
    let line = |role, text: String| DiffLine { role, text: Clean::from_text(&text).into_string() };
    let took = |ms| show_duration(Duration::from_millis(ms));
    let mut out = vec![
        line(StyleRole::StateOk, format!("- passed in {}", green.line)),
        line(StyleRole::StateBad, format!("+ {}: {}", case.verdict, case.why())),
        line(StyleRole::UiText, format!("took {} now, {} then", took(case.took_ms), took(green.took_ms))),
    ];
    let boots = (guest.and_then(GuestView::boot_ms), green.boot_ms);
    out.push(match boots {
        (Some(now), Some(then)) => line(StyleRole::UiText, format!("boot {} now, {} then", took(now), took(then))),
        (None, Some(then)) => {
            let how = if guest.is_some_and(|guest| guest.reused.is_some()) { "none: reused" } else { "not finished" };
            line(StyleRole::UiText, format!("boot {how} now, {} then", took(then)))
        }
        _ => line(StyleRole::UiText, "boot: not measured both times".to_owned()),
    });
    let before = record_logs::of_case(&green.dir, &case.guest, case.suite.as_str(), case.case.as_str());
    for stream in ["stderr.log", "stdout.log"] {
        let of = |logs: &[LogSource]| {
            let log = logs.iter().find(|log| log.path.ends_with(stream));
            log.map(|log| text(&vmdeck_files::read_tail(&log.path, BYTES))).unwrap_or_default()
        };
        let (then, now) = (of(&before), of(logs));
        let name = stream.trim_end_matches(".log");
        out.push(line(StyleRole::UiText, String::new()));
        if then == now {
            out.push(line(StyleRole::UiDim, format!("{name}: the same")));
            continue;
        }
        out.push(line(StyleRole::UiTitle, format!("{name}: - then, + now")));
        out.extend(changes(&then, &now));
    }
    out
}

/// Returns a log as text to be compared: what a terminal would be told is left out.
fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for line in String::from_utf8_lossy(bytes).lines() {
        let _ = writeln!(out, "{}", Clean::from_text(line));
    }
    out
}

fn changes(then: &str, now: &str) -> Vec<DiffLine> {
    let diff = TextDiff::configure().algorithm(Algorithm::Myers).timeout(LIMIT).diff_lines(then, now);
    let mut out = Vec::new();
    for (index, group) in diff.grouped_ops(CONTEXT).iter().enumerate() {
        if index > 0 {
            out.push(DiffLine { role: StyleRole::UiDim, text: "...".into() });
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let (sign, role) = match change.tag() {
                ChangeTag::Delete => ('-', StyleRole::StateOk),
                ChangeTag::Insert => ('+', StyleRole::StateBad),
                ChangeTag::Equal => (' ', StyleRole::UiDim),
            };
            out.push(DiffLine { role, text: format!("{sign} {}", change.value().trim_end_matches('\n')) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{TestCockpit, guest};
    use vmdeck_model::outcome::Verdict;

    #[test]
    fn what_a_case_wrote_this_time_is_beside_what_it_wrote_when_it_passed() {
        let home = tempfile::tempdir().expect("tempdir");
        let write = |run: &str, text: &str| {
            let folder = home.path().join(run).join("guests/deb/smoke/install");
            std::fs::create_dir_all(&folder).expect("folder");
            std::fs::write(folder.join("stdout.log"), text).expect("log");
        };
        let same: String = (0..20).map(|n| format!("ok {n}\n")).collect();
        write("green", &format!("{same}ok 20\nbye\n"));
        write("red", &format!("{same}not ok 20 \x1b[31m- adds\n# got 5\nbye\n"));
        let mut case = TestCockpit::with_run();
        case.case(10, "deb", "install", Verdict::Failed);
        let view = &case.model.shown.view;
        let ended = view.last_end(&guest("deb"), Some("smoke"), Some("install")).expect("ended");
        let logs = record_logs::of_case(&home.path().join("red"), &guest("deb"), "smoke", "install");
        let green = GreenRun {
            dir: home.path().join("green"),
            line: "run 5bba890d of 2026-11-29 10:00".into(),
            took_ms: 900,
            boot_ms: Some(5000),
        };
        let lines = compare(ended, view.guests.get(&guest("deb")), &logs, &green);
        let texts: Vec<String> = lines.into_iter().map(|line| line.text).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }
}
