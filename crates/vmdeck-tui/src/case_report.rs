//! A case that did not pass as text for an issue tracker: what, where, on which code, its last lines, and how to run it again.

use super::{logs::LogSource, model::Model, run_node::RunNode};
use vmdeck_model::{quantity::show_duration, run_view::SubtestsView, subtest::Subtest, text::Clean};

/// How many bytes of each log are looked at.
const BYTES: u64 = 8 * 1024;
/// How many of its last lines are taken.
const LINES: usize = 20;
/// How many of its own tests that failed are named.
const SUBTESTS: usize = 20;

/// Returns the report on the last end of this case, as Markdown; `None` = it has not ended. `logs` = those of the case.
pub(crate) fn markdown(model: &Model, node: &RunNode, logs: &[LogSource]) -> Option<String> {
    let view = &model.shown.view;
    let case = view.last_end(&node.guest, node.suite.as_deref(), node.case.as_deref())?;
    let mut out = format!("### `{}/{}` on `{}`: {}\n", case.suite, case.case, case.guest, case.verdict);
    if !case.message.is_empty() {
        out.push_str(&fenced(&clean(&case.message)));
    }
    let took = show_duration(std::time::Duration::from_millis(case.took_ms));
    let mut facts = vec![format!("run `{}`, {took}", view.run.as_deref().map(clean).unwrap_or_default())];
    if let Some(began) = view.began {
        facts.push(format!("began {}", began.format("%Y-%m-%d %H:%M:%S UTC")));
    }
    if let Some(guest) = view.guests.get(&case.guest) {
        let reused = guest.reused.as_ref().map(|reused| format!(", {reused}: not a fresh machine")).unwrap_or_default();
        facts.push(format!("guest: {}, {}{reused}", clean(&guest.backend), clean(&guest.os)));
    }
    if let Some(revision) = &view.revision {
        let with = if revision.dirty { ", with uncommitted changes" } else { "" };
        facts.push(format!("code: {}{with}", clean(&revision.commit)));
    }
    facts.push(format!("vmdeck {}", env!("CARGO_PKG_VERSION")));
    out.extend(facts.iter().map(|fact| format!("- {fact}\n")));
    let failed: Vec<&Subtest> = case.subtests.iter().flat_map(SubtestsView::failed).collect();
    if !failed.is_empty() {
        out.push_str(&format!("\nTests that failed ({}):\n", failed.len()));
        for subtest in failed.iter().take(SUBTESTS) {
            let place = subtest.place().map(|place| format!(" ({place})")).unwrap_or_default();
            let text = clean(&format!("{}: {}{place}", subtest.name, subtest.message));
            out.push_str(&fenced(text.trim_end_matches(": ")));
        }
    }
    for log in logs {
        let text = String::from_utf8_lossy(&vmdeck_files::read_tail(&log.path, BYTES)).into_owned();
        let lines: Vec<String> = text.lines().map(clean).collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        if !last.is_empty() {
            out.push_str(&format!("\nThe last lines of {}:\n{}", clean(&log.label), fenced(&last.join("\n"))));
        }
    }
    out.push_str(&format!("\nAgain: `vmdeck --ci '{}'`\n", node.selector()));
    Some(out)
}

fn clean(text: &str) -> String {
    text.lines().map(|line| Clean::from_text(line).into_string()).collect::<Vec<_>>().join("\n")
}

/// Returns a text between fences that are longer than any in it.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{text}\n{fence}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{TestCockpit, guest};
    use vmdeck_model::{event::EventKind, outcome::Verdict};

    #[test]
    fn what_a_guest_wrote_stays_text() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("stderr.log");
        let lines: String = (0..30).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, format!("{lines}```\n\x1b[31m<script>\n")).expect("write");
        let mut case = TestCockpit::with_run();
        let (machine, run) = ("vmdeck-abcdef01-deb".into(), "r".into());
        let reused = EventKind::Reused { guest: guest("deb"), machine, run, times: 2 };
        case.event(1, reused).event(1, EventKind::Revision { commit: "155cfe7".into(), dirty: true });
        case.up(2).case(10, "deb", "install", Verdict::Failed).keys("F");
        let node = case.model.tree[case.model.panes.run.at].clone();
        let log = LogSource { guest: guest("deb"), label: "smoke/install stderr".into(), path };
        let text = markdown(&case.model, &node, &[log]).expect("ended");
        insta::assert_snapshot!(text);
        let unended = RunNode { case: Some("remove".into()), ..node };
        assert_eq!(markdown(&case.model, &unended, &[]), None);
    }
}
