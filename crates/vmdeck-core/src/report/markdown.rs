//! A run as Markdown, for the trackers of issues: what failed and why, short enough to be read there.

use super::plan_index::PlanIndex;
use std::fmt::Write as _;
use vmdeck_model::{
    exit::RunExit,
    ids::short_run,
    quantity::show_duration,
    run_view::{EndedCase, RunView, SubtestsView},
    select::word_of_case,
};

/// Most cases that are told one by one.
const CASES: usize = 50;
/// Most sub-tests of a case.
const SUBTESTS: usize = 20;
/// Most bytes of the whole: trackers take 65 536 characters.
const MOST: usize = 60_000;

/// Returns the text of a run.
pub fn render(view: &RunView, index: &PlanIndex) -> String {
    let run = view.run.as_deref().map_or("?", short_run);
    let took = show_duration(std::time::Duration::from_millis(view.now_ms));
    let exit = view.exit.map_or("no end".to_owned(), |exit| format!("exit {}", exit.code()));
    let mut out = format!("### vmdeck run {run}: {} in {took} ({exit})\n\n", view.tally);
    if let Some(revision) = &view.revision {
        let dirty = if revision.dirty { ", with uncommitted changes" } else { "" };
        let _ = writeln!(out, "Code: {}{dirty}\n", code(&revision.commit));
    }
    let red: Vec<&EndedCase> = view.cases.iter().filter(|case| case.verdict.is_failure()).collect();
    if red.is_empty() {
        out.push_str(nothing_failed(view));
        out.push('\n');
    }
    let mut told = 0;
    for case in red.iter().take(CASES) {
        let part = one(case, index);
        if out.len() + part.len() > MOST {
            break;
        }
        out.push_str(&part);
        told += 1;
    }
    if told < red.len() {
        let _ = writeln!(out, "\nand {} more.", red.len() - told);
    }
    out
}

/// Returns what is said where no case failed.
pub(super) fn nothing_failed(view: &RunView) -> &'static str {
    match view.exit {
        None => "The run has no end; of the cases that had ended, none failed.",
        Some(RunExit::Passed) => "Nothing failed.",
        Some(_) => "No case failed, but the run did not end well.",
    }
}

fn one(case: &EndedCase, index: &PlanIndex) -> String {
    let word = word_of_case(&case.suite, &case.case, &case.guest);
    let excuse = case.quarantined.as_ref().map(|issue| format!(" (quarantined: {})", text(issue))).unwrap_or_default();
    let name = format!("{}/{}", case.suite, case.case.shown());
    let mut out = format!("#### {} in {}: {}{excuse}\n\n", text(&name), text(case.guest.as_str()), case.verdict);
    let place = index.place(&case.suite, &case.case).map(|place| format!(" at {}", code(&place.to_string())));
    let _ = writeln!(out, "{}{}\n", text(&case.message), place.unwrap_or_default());
    if let Some(line) = &case.evidence {
        out.push_str(&block(line));
    }
    let failed: Vec<_> = case.subtests.iter().flat_map(SubtestsView::failed).collect();
    for subtest in failed.iter().take(SUBTESTS) {
        let why = subtest.message.lines().next().unwrap_or_default();
        let why = if why.is_empty() { String::new() } else { format!(": {}", text(why)) };
        let _ = writeln!(out, "- {}{why}", code(&subtest.name));
    }
    if failed.len() > SUBTESTS {
        let _ = writeln!(out, "- and {} more", failed.len() - SUBTESTS);
    }
    let _ = writeln!(out, "\nAgain: {}\n", code(&format!("vmdeck --ci '{word}'")));
    out
}

/// Returns words as words: nothing in them is markup, a mention or a link.
fn text(words: &str) -> String {
    words.chars().fold(String::new(), |mut out, c| {
        if c.is_ascii_punctuation() && !".,:;()/- '".contains(c) {
            // A tracker calls people whose names stand behind this, whatever stands before it.
            out.push_str(if c == '@' { "@\u{2060}" } else { "\\" });
            if c == '@' {
                return out;
            }
        }
        out.push(if c == '\n' { ' ' } else { c });
        out
    })
}

/// Returns code within a line, between as many backticks as it needs.
fn code(words: &str) -> String {
    let fence = fence(words, 1);
    let words = words.replace('\n', " ");
    if words.contains('`') { format!("{fence} {words} {fence}") } else { format!("{fence}{words}{fence}") }
}

/// Returns lines of code.
fn block(lines: &str) -> String {
    let fence = fence(lines, 3);
    // On the terminal of a CI system a line that begins so would be a command for it.
    let guard = |line: &str| match line.trim_start() {
        start if start.starts_with("::") || start.starts_with("##[") => format!("\u{2060}{line}"),
        _ => line.to_owned(),
    };
    let lines = lines.lines().map(guard).collect::<Vec<_>>().join("\n");
    format!("{fence}text\n{lines}\n{fence}\n\n")
}

/// Returns more backticks in a row than the text has anywhere.
fn fence(text: &str, least: usize) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(least.max(longest + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_guest_said_is_markup() {
        assert_eq!(
            text("<b>*x*</b> [a](b) @all #1 a/b.c"),
            "\\<b\\>\\*x\\*\\</b\\> \\[a\\](b) @\u{2060}all \\#1 a/b.c"
        );
        assert_eq!(text("a\n# b"), "a \\# b");
        assert_eq!(block("a\n::error::x"), "```text\na\n\u{2060}::error::x\n```\n\n");
        assert_eq!(code("a`b``c"), "``` a`b``c ```");
        assert_eq!(block("x\n```\n</details>"), "````text\nx\n```\n</details>\n````\n\n");
    }
}
