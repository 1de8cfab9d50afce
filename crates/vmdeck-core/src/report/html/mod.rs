//! `report.html`: a run as one page that needs nothing besides itself.
//!
//! Everything that a guest said is text in it, never markup; a strict policy forbids it to load or send anything. What can be seen
//! does not need the script, which only searches and folds.

mod charts;
mod logs;
mod sections;
mod sources;

pub use sources::PastVerdicts;

use super::{ReportSink, plan_index::PlanIndex};
use base64::Engine as _;
use charts::Spans;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use sources::{LatePast, PageSources, newest, time};
use std::{cell::LazyCell, io, path::Path};
use vmdeck_model::{
    event::{Event, EventKind},
    exit::RunExit,
    outcome::Verdict,
    run_view::{EndedCase, RunView},
    secret::Redactor,
};

/// The name of the page in a record.
pub const FILE: &str = "report.html";

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Collects what the page needs besides the fold of the events.
pub struct HtmlPage {
    sources: PageSources,
    spans: Spans,
    version: String,
}

impl HtmlPage {
    /// Returns the page of a run whose record is this folder.
    /// Without something that takes its secrets out, the consoles are left out.
    /// How its cases ended before is read only if the page is made, and then as late as that.
    pub fn new(
        record: &Path,
        index: PlanIndex,
        past: impl FnOnce() -> PastVerdicts + Send + 'static,
        redactor: Option<Redactor>,
    ) -> Self {
        let past: LatePast = LazyCell::new(Box::new(past));
        let sources = PageSources { record: record.to_owned(), index, past, redactor };
        Self { sources, spans: Spans::default(), version: String::new() }
    }

    /// Takes one event.
    pub fn take(&mut self, event: &Event) {
        if let EventKind::RunStarted { version, .. } = &event.kind {
            self.version.clone_from(version);
        }
        self.spans.take(event);
    }

    /// Returns the page as it is now.
    pub fn render(&self, view: &RunView) -> String {
        let failures: Vec<&EndedCase> = newest(view).into_iter().filter(|case| case.verdict.is_failure()).collect();
        let title = title(view);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy());
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="referrer" content="no-referrer";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a.skip-link href="#failures" { "Skip to the failures" }
                    header {
                        h1 { span class=(verdict_of(view)) { (word_of(view)) } " " (title) }
                        (self.facts(view))
                    }
                    div.tools hidden role="search" {
                        label for="find" { "Find" }
                        input #find type="search" placeholder="case, guest or text of a log ( / )";
                        button #unfold type="button" { "Unfold all" }
                        button #fold type="button" { "Fold all" }
                        span #count.dim role="status" {}
                    }
                    main {
                        (sections::failures(&self.sources, view, &failures))
                        (sections::grid(view))
                        (sections::timeline(&self.spans, view))
                        (sections::boots(view))
                        (sections::cases(&self.sources, view))
                        (sections::host(view))
                        (sections::consoles(&self.sources, view))
                    }
                    footer.dim { p { "vmdeck " (self.version) } }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        page.into_string()
    }

    fn facts(&self, view: &RunView) -> Markup {
        let revision = view.revision.as_ref();
        html! {
            dl.facts {
                dt { "Cases" } dd { (view.tally.to_string()) }
                @if view.subtests.total() > 0 {
                    dt { "Their own tests" } dd { (view.subtests.to_string()) }
                }
                dt { "Exit" } dd { (view.exit.map_or("the run has no end".to_owned(), |exit| exit.code().to_string())) }
                dt { "Took" } dd { (time(view.now_ms)) }
                @if let Some(began) = view.began { dt { "Began" } dd { (began.format("%Y-%m-%d %H:%M:%S UTC").to_string()) } }
                @if let Some(revision) = revision {
                    dt { "Code" } dd { code { (revision.commit) } @if revision.dirty { ", with uncommitted changes" } }
                }
                @if !view.selection.is_empty() { dt { "Selected" } dd { code { (view.selection.join(" ")) } } }
                @if let Some(config) = &view.config { dt { "Config" } dd { code { (config) } } }
                // A merged one is the same wherever it lies.
                @if !view.dir.is_empty() { dt { "Record" } dd { code { (self.sources.record.display().to_string()) } } }
            }
        }
    }
}

impl ReportSink for HtmlPage {
    fn name(&self) -> String {
        "the page of the run".into()
    }

    fn event(&mut self, event: &Event, view: &RunView) -> io::Result<()> {
        self.take(event);
        if !matches!(event.kind, EventKind::RunEnded { .. }) {
            return Ok(());
        }
        vmdeck_files::write(&self.sources.record.join(FILE), self.render(view).as_bytes())
    }
}

/// Returns what the page may do: show its own style and run its own script, and nothing else.
fn policy() -> String {
    let hash = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

fn title(view: &RunView) -> String {
    let run = view.run.as_deref().map_or("?", vmdeck_model::ids::short_run);
    format!("run {run}")
}

/// Returns the word for how the run stands, and below it the class by which it is coloured.
fn word_of(view: &RunView) -> &'static str {
    match view.exit {
        None => "No end:",
        Some(RunExit::Passed) if view.tally.of(Verdict::Flaky) > 0 => "Passed (flaky):",
        Some(RunExit::Passed) => "Passed:",
        Some(RunExit::TestFailed) => "Failed:",
        Some(RunExit::Interrupted | RunExit::Terminated) => "Cancelled:",
        Some(_) => "Broken:",
    }
}

fn verdict_of(view: &RunView) -> &'static str {
    match view.exit {
        Some(RunExit::Passed) => "passed",
        Some(RunExit::Interrupted | RunExit::Terminated) | None => "cancelled",
        Some(_) => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::secret::Secret;

    /// What would leave its place if it were not made safe.
    const HOSTILE: &str =
        "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)> \" onload=\"x ' & \u{202e}";

    fn event(ms: u64, kind: &serde_json::Value) -> Event {
        let mut all = serde_json::json!({ "seq": ms, "at": "2026-11-21T08:00:00.000Z", "elapsed_ms": ms });
        let (all_map, kind) = (all.as_object_mut().expect("object"), kind.as_object().expect("object"));
        all_map.extend(kind.clone());
        serde_json::from_value(all).expect("an event")
    }

    /// A run of one guest, whose case and its tests say this.
    fn events(text: &str, subtests: usize) -> Vec<Event> {
        let of = |kind: serde_json::Value| {
            let mut kind = kind;
            let names = serde_json::json!({ "guest": "deb", "suite": "s", "case": "c:v=1", "round": 1 });
            kind.as_object_mut().expect("object").extend(names.as_object().expect("object").clone());
            kind
        };
        let mut out = vec![
            event(
                0,
                &serde_json::json!({ "kind": "run_started", "run": "00112233445566aa", "version": text, "host": text, "dir": text,
                    "selection": [text], "config": text, "cases": 1, "guests": [
                    { "guest": "deb", "backend": text, "os": "linux", "isolated": true, "cases": 1, "names": ["s/c:v=1"] }] }),
            ),
            event(1, &serde_json::json!({ "kind": "warning", "guest": "deb", "text": text })),
            event(
                2,
                &serde_json::json!({ "kind": "phase_ended", "guest": "deb", "phase": "kernel", "ok": true, "took_ms": 2 }),
            ),
            event(3, &of(serde_json::json!({ "kind": "case_started", "attempt": 1 }))),
        ];
        for n in 0..subtests {
            let status = if n % 50 == 0 { "failed" } else { "passed" };
            let subtest = serde_json::json!({ "kind": "subtest_ended", "attempt": 1, "name": format!("{text} {n}"), "status": status,
                "took_ms": 1, "file": text, "line": 3, "message": text });
            out.push(event(4, &of(subtest)));
        }
        let failed = subtests.div_ceil(50);
        let tally = serde_json::json!({ "passed": subtests - failed, "failed": failed, "error": 0, "skipped": 0, "xfail": 0, "xpass": 0, "flaky": 0 });
        out.push(event(
            900,
            &of(serde_json::json!({ "kind": "case_ended", "verdict": "failed", "exit": 1, "took_ms": 897, "message": text,
                "stdout_tail": text, "stderr_tail": format!("error: {text}"), "subtests": tally, "quarantined": text })),
        ));
        let tally =
            serde_json::json!({ "passed": 0, "failed": 1, "infra": 0, "skipped": 0, "cancelled": 0, "flaky": 0 });
        out.push(event(
            950,
            &serde_json::json!({ "kind": "run_ended", "tally": tally, "exit": 1, "took_ms": 950, "skipped_output": 0 }),
        ));
        out
    }

    fn page(events: &[Event], record: &Path) -> String {
        let past = PastVerdicts::from([("s/c:v=1@deb".to_owned(), vec![Verdict::Passed, Verdict::Failed])]);
        let mut page =
            HtmlPage::new(record, PlanIndex::default(), || past, Some(Redactor::new(&[Secret::new("canary-secret")])));
        let mut view = RunView::default();
        for event in events {
            view.apply(event);
            page.take(event);
        }
        page.render(&view)
    }

    #[test]
    fn nothing_that_a_guest_says_is_markup() {
        let record = tempfile::tempdir().expect("record");
        let logs = record.path().join("guests/deb/s/c,v=1");
        std::fs::create_dir_all(&logs).expect("folder");
        std::fs::write(logs.join("stdout.log"), HOSTILE.repeat(3)).expect("log");
        std::fs::write(record.path().join("guests/deb/console.log"), HOSTILE).expect("log");
        let page = page(&events(HOSTILE, 60), record.path());
        for (what, count) in
            [("<script", 1), ("</script", 1), ("<img", 0), ("<style", 1), ("onload=\"", 0), ("<iframe", 0)]
        {
            assert_eq!(page.matches(what).count(), count, "{what}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("guests/deb/console.log"));
        assert!(!page.contains(" style="), "the policy forbids styles of elements");
        assert!(page.contains("default-src 'none'; style-src 'sha256-") && !page.contains("unsafe-inline"));
        assert!(!page.contains("http://") && !page.contains("https://"), "it names no other place");
    }

    #[test]
    fn the_secrets_of_a_console_are_taken_out_also_where_its_end_cuts_one() {
        let record = tempfile::tempdir().expect("record");
        std::fs::create_dir_all(record.path().join("guests/deb")).expect("folder");
        let console = record.path().join("guests/deb/console.log");
        std::fs::write(&console, "token can\x1b[31mary-secret and canary-secret here\n").expect("log");
        let shown = page(&events("x", 0), record.path());
        assert!(shown.contains("***") && !shown.contains("canary"), "{shown}");
        // What is cut off is no secret any more that could be told.
        std::fs::write(&console, format!("canary-secret{}\nlast line\n", "x".repeat(48 * 1024 - 20))).expect("log");
        let shown = page(&events("x", 0), record.path());
        assert!(shown.contains("last line") && !shown.contains("secret"));
        let mut other = HtmlPage::new(record.path(), PlanIndex::default(), PastVerdicts::new, None);
        let mut view = RunView::default();
        for event in events("x", 0) {
            view.apply(&event);
            other.take(&event);
        }
        assert!(!other.render(&view).contains("last line"), "nobody knows its secrets");
    }

    #[test]
    fn it_tells_what_failed_first_and_everything_else_after_it() {
        let page = page(&events("why", 60), Path::new("/nowhere"));
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text:?} in {page}"));
        assert!(
            at("Failures") < at("s/c (v 1)") && at("s/c (v 1)") < at("Timeline") && at("Timeline") < at("All cases")
        );
        assert!(page.contains("vmdeck --ci 's/c:v=1@deb'") && page.contains("1 of 2 runs not green"));
        // In a picture every element has an end.
        assert!(
            page.matches("<line").count() == page.matches("</line>").count() && page.contains("<rect class=\"failed\"")
        );
        assert!(page.contains("quarantined: why") && page.contains("60 tests") && page.contains("kernel 0.0s"));
    }

    #[test]
    fn a_run_of_which_little_is_known_has_a_page_as_well() {
        assert!(page(&[], Path::new("/nowhere")).contains("of the cases that had ended, none failed"));
        let begun = &events("x", 0)[..3];
        assert!(page(begun, Path::new("/nowhere")).contains("the run has no end"));
    }

    #[test]
    fn many_sub_tests_make_a_page_that_is_not_too_large() {
        let page = page(&events("a test of some length", 5_000), Path::new("/nowhere"));
        assert!(page.len() < 3_000_000, "{}", page.len());
    }
}
