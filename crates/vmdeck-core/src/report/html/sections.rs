//! The parts of the page, from the failures to the consoles.

use super::{
    charts::{ChartSpan, Spans, picture},
    logs::{self, LogEnd},
    sources::{PageSources, newest, time},
};
use crate::report::markdown::nothing_failed;
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};
use vmdeck_model::{
    event::Severity,
    ids::{CaseId, GuestId, SuiteId},
    outcome::Verdict,
    quantity::show_count,
    run_view::{EndedCase, RunView},
    select::word_of_case,
    subtest::Subtest,
};

/// Most failures that are shown with their logs.
const WITH_LOGS: usize = 100;
/// Most sub-tests of a case that have a row each.
const SUBTESTS: usize = 20_000;

/// What failed, with what tells why.
pub(super) fn failures(page: &PageSources, view: &RunView, failures: &[&EndedCase]) -> Markup {
    html! {
        section #failures {
            h2 { "Failures" }
            @if failures.is_empty() { p { (nothing_failed(view)) } }
            @if let Some(error) = run_error(view) { p.failed { (error) } }
            @for (at, case) in failures.iter().enumerate() {
                details.case open[at < 10] data-find=(format!("{}/{} {}", case.suite, case.case, case.guest)) {
                    summary {
                        span class=(case.verdict.as_str()) { (case.verdict.as_str()) } " "
                        strong.name { (format!("{}/{}", case.suite, view.found.title(&case.suite, &case.case))) } " in " (case.guest.as_str())
                        @if let Some(issue) = &case.quarantined { span.quarantined { " (quarantined: " (issue) ")" } }
                        span.dim { " " (time(case.took_ms)) }
                    }
                    p.name { (case.message) }
                    @if let Some(line) = &case.evidence { pre { mark { (line) } } }
                    dl.facts {
                        @if let Some(place) = page.index.place(&case.suite, &case.case) {
                            dt { "Written at" } dd { code { (place.to_string()) } }
                        }
                        dt { "Again" } dd { code { "vmdeck --ci '" (word(case)) "'" } }
                        (history(page, case))
                    }
                    @if let Some(subtests) = &case.subtests {
                        (subtest_table(subtests.failed(), "Its own tests that failed"))
                    }
                    @if at < WITH_LOGS { @for log in logs::of_case(&page.record, case) { (log_end(&log, true)) } }
                }
            }
        }
    }
}

fn run_error(view: &RunView) -> Option<String> {
    let fatal = view.findings.iter().find(|finding| finding.severity == Severity::Fatal);
    fatal.map(|finding| format!("The host is not ready: {}", finding.text))
}

fn word(case: &EndedCase) -> String {
    word_of_case(&case.suite, &case.case, &case.guest)
}

/// How the case ended in earlier runs.
fn history(page: &PageSources, case: &EndedCase) -> Markup {
    let past = page.past.get(&word(case)).map_or(&[][..], Vec::as_slice);
    let red = past.iter().filter(|verdict| !matches!(verdict, Verdict::Passed)).count();
    html! {
        @if !past.is_empty() {
            dt { "Before" }
            dd {
                span role="img" aria-label=(format!("{red} of {} not green", show_count(past.len(), "run"))) {
                    @for verdict in past { span class=(verdict.as_str()) title=(verdict.as_str()) { (sign(*verdict)) } }
                }
                span.dim { " " (format!("{red} of {} not green, the newest is the last", show_count(past.len(), "run"))) }
            }
        }
    }
}

/// Returns a sign that can be told apart without colour.
fn sign(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "✓",
        Verdict::Failed => "✗",
        Verdict::Infra => "!",
        Verdict::Skipped => "–",
        Verdict::Cancelled => "○",
        Verdict::Flaky => "~",
    }
}

/// Guests beside cases.
pub(super) fn grid(view: &RunView) -> Markup {
    let mut cells: BTreeMap<(&SuiteId, &CaseId), BTreeMap<&GuestId, &EndedCase>> = BTreeMap::new();
    let mut order = Vec::new();
    for case in newest(view) {
        let key = (&case.suite, &case.case);
        if !cells.contains_key(&key) {
            order.push(key);
        }
        cells.entry(key).or_default().insert(&case.guest, case);
    }
    let told = view.guests.iter().filter(|(_, guest)| guest.one_more_of.is_none());
    let guests: Vec<&GuestId> = told.map(|(id, _)| id).collect();
    html! {
        @if guests.len() > 1 && !order.is_empty() {
            section {
                h2 { "Cases by guest" }
                div.wide {
                    table {
                        thead { tr { th scope="col" { "Case" } @for guest in &guests { th scope="col" { (guest.as_str()) } } } }
                        tbody {
                            @for key in &order {
                                tr {
                                    th.name scope="row" { (format!("{}/{}", key.0, view.found.title(key.0, key.1))) }
                                    @for guest in &guests {
                                        td {
                                            @match cells.get(key).and_then(|row| row.get(guest)) {
                                                Some(case) => span class=(case.verdict.as_str()) {
                                                    (sign(case.verdict)) " " (case.verdict.as_str())
                                                },
                                                None => span.unrun title="not run here" { "·" },
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// When what ran.
pub(super) fn timeline(spans: &Spans, view: &RunView) -> Markup {
    html! {
        @if !spans.is_empty() {
            section {
                h2 { "Timeline" }
                (spans.picture(view.now_ms))
                p.dim { "Grey is boot, setup and clean-up; each other bar is a case, named where the pointer rests." }
            }
        }
    }
}

/// What the boots were made of.
pub(super) fn boots(view: &RunView) -> Markup {
    let rows: Vec<(String, Vec<ChartSpan>)> = view
        .guests
        .iter()
        .map(|(id, guest)| {
            let mut from = 0;
            let phases = guest.done.iter().filter(|(phase, _)| phase.is_boot());
            let spans = phases.map(|(phase, ms)| {
                from += ms;
                ChartSpan { label: phase.as_str().to_owned(), class: "phase", from_ms: from - ms, to_ms: from }
            });
            (id.to_string(), spans.collect())
        })
        .filter(|(_, spans): &(_, Vec<_>)| !spans.is_empty())
        .collect();
    let end = rows.iter().filter_map(|(_, spans)| spans.last()).map(|span| span.to_ms).max().unwrap_or(0);
    let borrowed: Vec<(String, &[ChartSpan])> = rows.iter().map(|(name, spans)| (name.clone(), &spans[..])).collect();
    html! {
        @if !rows.is_empty() {
            section {
                h2 { "Boots" }
                (picture("Phases of each guest's boots, one after the other", &borrowed, end))
                table {
                    thead { tr { th scope="col" { "Guest" } th scope="col" { "Phases" } } }
                    tbody {
                        @for (name, spans) in &rows {
                            tr {
                                th scope="row" { (name) }
                                td {
                                    @for (at, span) in spans.iter().enumerate() {
                                        @if at > 0 { " · " }
                                        (span.label) " " (time(span.to_ms - span.from_ms))
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Every case.
pub(super) fn cases(page: &PageSources, view: &RunView) -> Markup {
    let cases = newest(view);
    html! {
        section {
            h2 { "All cases" }
            @if cases.is_empty() { p { "No case has ended." } } @else {
                table {
                    thead {
                        tr {
                            th scope="col" { "Verdict" } th scope="col" { "Case" } th scope="col" { "Guest" }
                            th.number scope="col" { "Took" } th scope="col" { "Why" }
                        }
                    }
                    tbody {
                        @for case in &cases {
                            tr data-find=(format!("{}/{} {} {}", case.suite, case.case, case.guest, case.verdict)) {
                                td.state { span class=(case.verdict.as_str()) { (sign(case.verdict)) " " (case.verdict.as_str()) } }
                                td.name {
                                    (format!("{}/{}", case.suite, view.found.title(&case.suite, &case.case)))
                                    @if case.round > 1 { " (round " (case.round) ")" }
                                    @if let Some(subtests) = case.subtests.as_ref().filter(|s| s.tally.total() > 0) {
                                        details.subtests {
                                            summary { (format!("{}: {}", show_count(subtests.tally.total() as usize, "test"), subtests.tally)) }
                                            (subtest_table(subtests.list.iter(), ""))
                                        }
                                    }
                                    @let place = page.index.place(&case.suite, &case.case);
                                    @if let Some(place) = place { span.dim { " " (place.to_string()) } }
                                }
                                td { (case.guest.as_str()) }
                                td.number { (time(case.took_ms)) }
                                td.name { (case.message.lines().next().unwrap_or_default()) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn subtest_table<'a>(subtests: impl Iterator<Item = &'a Subtest>, heading: &str) -> Markup {
    let mut rows: Vec<&Subtest> = subtests.collect();
    // Stable: what failed comes first, each in the order of the run.
    rows.sort_by_key(|subtest| !subtest.status.is_failure());
    let more = rows.len().saturating_sub(SUBTESTS);
    rows.truncate(SUBTESTS);
    html! {
        @if !rows.is_empty() {
            @if !heading.is_empty() { h3 { (heading) } }
            table {
                thead { tr { th scope="col" { "Status" } th scope="col" { "Test" } th.number scope="col" { "Took" } th scope="col" { "Why" } } }
                tbody {
                    @for subtest in rows {
                        tr {
                            td.state { span class=(subtest.status.as_str()) { (subtest.status.as_str()) } }
                            td.name { (subtest.name) }
                            td.number { @if let Some(ms) = subtest.took_ms { (time(ms)) } }
                            td.name {
                                (subtest.message.lines().next().unwrap_or_default())
                                @if let Some(place) = subtest.place() { span.dim { " " (place) } }
                            }
                        }
                    }
                }
            }
            @if more > 0 { p.dim { "and " (more) " more, in results.jsonl of the record" } }
        }
    }
}

/// What was found out about the host, what a person was warned of, and what was proven gone.
pub(super) fn host(view: &RunView) -> Markup {
    let notable: Vec<_> = view.findings.iter().filter(|finding| finding.severity != Severity::Ok).collect();
    let left: Vec<&str> = view.left().map(String::as_str).collect();
    html! {
        section {
            h2 { "Host and clean-up" }
            @if !left.is_empty() { p.failed { "Not proven gone: " (left.join("; ")) } } @else { p { "Nothing is left behind." } }
            @if !notable.is_empty() {
                h3 { "Findings" }
                ul { @for finding in notable { li { (finding.check) ": " (finding.text) } } }
            }
            @if !view.warnings.is_empty() {
                h3 { "Warnings" }
                ul {
                    @for warning in &view.warnings {
                        li.name { @if let Some(guest) = &warning.guest { (guest.as_str()) ": " } (warning.text) }
                    }
                }
            }
        }
    }
}

/// The ends of the consoles, of guests with failures first.
pub(super) fn consoles(page: &PageSources, view: &RunView) -> Markup {
    let Some(redactor) = &page.redactor else { return html! {} };
    let bad: BTreeSet<&GuestId> =
        view.cases.iter().filter(|case| case.verdict.is_failure()).map(|case| &case.guest).collect();
    let mut guests: Vec<&GuestId> = view.guests.keys().collect();
    guests.sort_by_key(|guest| !bad.contains(guest));
    let logs: Vec<LogEnd> =
        guests.into_iter().filter_map(|guest| logs::of_console(&page.record, guest, redactor)).collect();
    html! {
        @if !logs.is_empty() { section { h2 { "Consoles" } @for log in &logs { (log_end(log, false)) } } }
    }
}

fn log_end(log: &LogEnd, is_open: bool) -> Markup {
    html! {
        details open[is_open] {
            summary { code { (log.name) } @if log.is_cut { span.dim { " (its end)" } } }
            pre.log tabindex="0" { (log.text) }
        }
    }
}
