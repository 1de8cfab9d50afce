//! `vmdeck list --cases`: what a run would run, and where each case was written.

use super::{Io, settings};
use crate::cli::ConfigArgs;
use serde_json::json;
use vmdeck_model::{
    error::Result,
    exit::RunExit,
    guest::Guest,
    job::Job,
    plan,
    quantity::{show_count, show_duration},
    select::Selector,
    suite::{Case, Suite},
};

/// Lists the cases that fit; nothing of them is started.
pub(super) fn list(
    config: &ConfigArgs,
    tag: Option<&str>,
    select: &[String],
    json: bool,
    io: &mut Io<'_>,
) -> Result<RunExit> {
    let mut setup = settings::load_untrusted(config)?;
    settings::retain_tags(&mut setup, tag)?;
    let selectors: Vec<Selector> = select.iter().filter_map(|word| Selector::parse(word).ok()).collect();
    let jobs = plan::select(&setup, &selectors, None);
    let cases: Vec<(&Guest, &Suite, &Case)> = jobs.iter().flat_map(Job::cases).collect();
    if json {
        let rows: Vec<serde_json::Value> = cases.iter().map(|(guest, suite, case)| row(guest, suite, case)).collect();
        io.say(&serde_json::to_string_pretty(&rows).unwrap_or_default());
        return Ok(RunExit::Passed);
    }
    if cases.is_empty() {
        io.say("no cases");
        return Ok(RunExit::Passed);
    }
    let name = |guest: &Guest, suite: &Suite, case: &Case| format!("{}/{}@{}", suite.id, case.id, guest.id);
    let width = cases.iter().map(|(guest, suite, case)| name(guest, suite, case).len()).max().unwrap_or(0).max(4);
    io.say(&format!("{:<width$} {:>7}  {:<20} PLACE", "CASE", "LIMIT", "TAGS"));
    for (guest, suite, case) in &cases {
        let tags = if case.tags.is_empty() { "-".to_owned() } else { case.tags.join(" ") };
        let limit = show_duration(case.timeout.unwrap_or(guest.case_timeout));
        let place =
            if case.place.line > 0 { format!("{}:{}", case.place.file, case.place.line) } else { "-".to_owned() };
        let skip = case.skip.as_ref().map(|why| format!("  skipped: {why}")).unwrap_or_default();
        io.say(&format!("{:<width$} {limit:>7}  {tags:<20} {place}{skip}", name(guest, suite, case)));
    }
    io.say(&show_count(cases.len(), "case"));
    Ok(RunExit::Passed)
}

fn row(guest: &Guest, suite: &Suite, case: &Case) -> serde_json::Value {
    json!({
        "suite": suite.id, "case": case.id, "guest": guest.id, "tags": case.tags, "skip": case.skip,
        "timeout_ms": u64::try_from(case.timeout.unwrap_or(guest.case_timeout).as_millis()).unwrap_or(u64::MAX),
        "retries": case.retries,
        "results": case.results.streams.iter().chain(&case.results.files).collect::<Vec<_>>(),
        "file": Some(&case.place.file).filter(|_| case.place.line > 0),
        "line": Some(case.place.line).filter(|line| *line > 0),
    })
}
