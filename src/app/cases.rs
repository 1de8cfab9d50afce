//! `vmdeck list --cases`: what a run would run, and where each case was written.

use super::{Io, plan::nothing_matched, runs, settings};
use crate::cli::ConfigArgs;
use serde_json::json;
use std::{collections::BTreeMap, path::Path};
use vmdeck_core::history::{self, PastCase};
use vmdeck_model::{
    error::Result,
    exit::RunExit,
    guest::Guest,
    job::{Job, JobGuest, is_meant_for},
    outcome::Verdict,
    plan::{self, Setup},
    quantity::{show_count, show_duration},
    select::{Selector, word_of_case},
    suite::{Case, CaseAction, Suite},
    when::WhenExpr,
};

/// How many runs are looked at for how a case ended.
const PAST: usize = 100;

/// Which cases are listed.
#[derive(Clone, Copy)]
pub(super) struct WantedCases<'a> {
    pub(super) tag: Option<&'a str>,
    pub(super) select: &'a [String],
    /// Those that no run would run as well.
    pub(super) all: bool,
}

/// Lists the cases that fit; nothing of them is started.
pub(super) fn list(config: &ConfigArgs, wanted: WantedCases<'_>, json: bool, io: &mut Io<'_>) -> Result<RunExit> {
    let mut setup = settings::load_untrusted(config)?;
    settings::retain_tags(&mut setup, wanted.tag)?;
    let selectors: Vec<Selector> = wanted.select.iter().filter_map(|word| Selector::parse(word).ok()).collect();
    let jobs = plan::select(&setup, &selectors);
    if jobs.is_empty() && !wanted.select.is_empty() && !wanted.all {
        return Err(nothing_matched(&setup, wanted.select));
    }
    let past = history::trends(Path::new(runs::RECORDS), PAST).cases;
    let cases: Vec<(&Guest, &Suite, &Case)> = jobs.iter().flat_map(Job::cases).collect();
    let others = if wanted.all { left_out(&setup, &cases) } else { Vec::new() };
    if json {
        let rows = cases.iter().map(|(guest, suite, case)| row((guest, suite, case), &past, None));
        let others = others.iter().map(|other| row((&other.guest, other.suite, other.case), &past, Some(&other.why)));
        let rows: Vec<serde_json::Value> = rows.chain(others).collect();
        io.say(&serde_json::to_string_pretty(&rows).unwrap_or_default());
        return Ok(RunExit::Passed);
    }
    if cases.is_empty() && others.is_empty() {
        io.say("no cases");
        return Ok(RunExit::Passed);
    }
    let name = |guest: &Guest, suite: &Suite, case: &Case| format!("{}/{}@{}", suite.id, case.id, guest.id);
    let names = cases.iter().map(|(guest, suite, case)| name(guest, suite, case));
    let names = names.chain(others.iter().map(|other| name(&other.guest, other.suite, other.case)));
    let width = names.map(|name| name.len()).max().unwrap_or(0).max(4);
    io.say(&format!("{:<width$} {:>7}  {:<11}  {:<20} PLACE", "CASE", "LIMIT", "NOT GREEN", "TAGS"));
    let all = cases.iter().map(|(guest, suite, case)| (*guest, *suite, *case, None));
    let others = others.iter().map(|other| (&other.guest, other.suite, other.case, Some(&other.why)));
    for (guest, suite, case, left_out) in all.chain(others) {
        let tags = if case.tags.is_empty() { "-".to_owned() } else { case.tags.join(" ") };
        let limit = show_duration(case.timeout.unwrap_or(guest.case_timeout));
        let place =
            if case.place.line > 0 { format!("{}:{}", case.place.file, case.place.line) } else { "-".to_owned() };
        let is_found = matches!(case.action, CaseAction::Discover(_));
        let found = if is_found { "  (what is found in the guest)" } else { "" };
        let skip = left_out.map(|why| format!("  not run: {why}"));
        let skip = skip.or_else(|| case.skip.as_ref().map(|why| format!("  skipped: {why}"))).unwrap_or_default();
        let past = past.get(&word_of_case(&suite.id, &case.id, &guest.id)).map_or(&[][..], Vec::as_slice);
        let past = if past.is_empty() { "-".to_owned() } else { format!("{} of {}", not_green(past), past.len()) };
        io.say(&format!(
            "{:<width$} {limit:>7}  {past:<11}  {tags:<20} {place}{found}{skip}",
            name(guest, suite, case)
        ));
    }
    io.say(&show_count(cases.len(), "case"));
    Ok(RunExit::Passed)
}

/// A case that is not run in a guest of its suite.
struct LeftOut<'a> {
    guest: Guest,
    suite: &'a Suite,
    case: &'a Case,
    why: String,
}

/// Returns the cases that no run would run unless it is asked to, or at all.
fn left_out<'a>(setup: &'a Setup, planned: &[(&Guest, &Suite, &Case)]) -> Vec<LeftOut<'a>> {
    let mut out = Vec::new();
    for suite in &setup.suites {
        for JobGuest { role, guest } in plan::suite_members(suite, &setup.guests) {
            let role = role.as_ref();
            for case in suite.cases.iter().filter(|case| case.runs_on(role)) {
                let is_it = |(of, in_suite, one): &&(&Guest, &Suite, &Case)| {
                    of.id == guest.id && in_suite.id == suite.id && one.id == case.id
                };
                let why = match &case.when {
                    Some(when) if !is_meant_for(case, &guest, role) => {
                        format!("it does not hold here: {}", when.text())
                    }
                    _ if case.explicit => "only where it is asked for (`explicit`)".to_owned(),
                    _ => continue,
                };
                if !planned.iter().any(|planned| is_it(&planned)) {
                    out.push(LeftOut { guest: guest.clone(), suite, case, why });
                }
            }
        }
    }
    out
}

/// Returns how many of these runs were not green.
fn not_green(past: &[PastCase]) -> usize {
    past.iter().filter(|case| case.verdict != Verdict::Passed).count()
}

fn row(
    (guest, suite, case): (&Guest, &Suite, &Case),
    past: &BTreeMap<String, Vec<PastCase>>,
    left_out: Option<&str>,
) -> serde_json::Value {
    let past = past.get(&word_of_case(&suite.id, &case.id, &guest.id)).map_or(&[][..], Vec::as_slice);
    let matrix: serde_json::Map<_, _> = case.matrix.iter().map(|(axis, value)| (axis.clone(), json!(value))).collect();
    json!({
        "suite": suite.id, "case": case.id, "guest": guest.id, "tags": case.tags, "skip": case.skip,
        "matrix": matrix, "when": case.when.as_ref().map(WhenExpr::text), "explicit": case.explicit, "exclusive": case.exclusive, "not_run": left_out,
        "needs": case.needs,
        "kind": match &case.action {
            CaseAction::Run(_) => "run",
            CaseAction::Script(_) => "script",
            CaseAction::Steps(_) => "steps",
            CaseAction::Discover(_) => "discover",
            CaseAction::Manual(_) => "manual",
            CaseAction::Host(_) => "host",
        },
        "history": { "runs": past.len(), "not_green": not_green(past), "last": past.last().map(|case| case.verdict) },
        "timeout_ms": u64::try_from(case.timeout.unwrap_or(guest.case_timeout).as_millis()).unwrap_or(u64::MAX),
        "retries": case.retries,
        "results": case.results.streams.iter().chain(&case.results.files).collect::<Vec<_>>(),
        "file": Some(&case.place.file).filter(|_| case.place.line > 0),
        "line": Some(case.place.line).filter(|line| *line > 0),
    })
}
