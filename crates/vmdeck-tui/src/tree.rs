//! The rows of the run pane: guests, their suites, the suites' cases, with what is known of each.
//!
//! From the run if there is one, else from the config: then it is what could be run.

use super::{
    model::{Model, RecordSource},
    run_node::{NodeState, RunNode},
};
use std::collections::{BTreeMap, HashMap, HashSet};
use vmdeck_model::{
    ids::GuestId,
    outcome::{Tally, Verdict},
    plan,
    run_view::{EndedCase, GuestView},
};

/// Returns all rows that are not folded away or filtered out.
pub fn rows(model: &Model) -> Vec<RunNode> {
    let mut last: HashMap<(&str, &str, &str), &EndedCase> = HashMap::new();
    for case in &model.shown.view.cases {
        last.insert((case.guest.as_str(), case.suite.as_str(), case.case.as_str()), case);
    }
    let mut out = Vec::new();
    for (guest, names) in planned(model) {
        let view = model.shown.view.guests.get(&guest);
        let mut suites: Vec<RunNode> = Vec::new();
        for name in &names {
            let (suite, case) = name.split_once('/').unwrap_or((name, ""));
            // The cases of a suite stand together.
            if suites.last().is_none_or(|row| row.suite.as_deref() != Some(suite)) {
                suites.push(node(&guest, Some(suite), None));
            }
            let mut row = node(&guest, Some(suite), Some(case));
            row.planned = 1;
            fill(&mut row, view, last.get(&(guest.as_str(), suite, case)).copied());
            suites.push(row);
        }
        push(model, &guest, suites, &mut out);
    }
    out
}

/// Returns the cases of each guest, in the order in which they run.
fn planned(model: &Model) -> Vec<(GuestId, Vec<String>)> {
    let mut out: BTreeMap<GuestId, Vec<String>> = BTreeMap::new();
    if let Some(setup) = model
        .setup
        .as_ref()
        .filter(|_| !matches!(model.shown.record, RecordSource::Other { .. } | RecordSource::Replay))
    {
        for job in plan::select(setup, &model.select, None) {
            for guest in job.guests() {
                let names = job.cases_in(&guest.id).map(|(suite, case)| format!("{}/{}", suite.id, case.id)).collect();
                out.insert(guest.id.clone(), names);
            }
        }
    }
    for (id, guest) in &model.shown.view.guests {
        let names: &mut Vec<String> = out.entry(id.clone()).or_default();
        let mut known: HashSet<String> = names.iter().cloned().collect();
        let mut add = |name: String| {
            if known.insert(name.clone()) {
                names.push(name);
            }
        };
        guest.names.iter().cloned().for_each(&mut add);
        if guest.names.is_empty() {
            // A record of a version that did not write them: those that have begun are known.
            let ended =
                model.shown.view.cases.iter().filter(|c| c.guest == *id).map(|c| format!("{}/{}", c.suite, c.case));
            let on = guest.case.iter().map(|(suite, case)| format!("{suite}/{case}"));
            ended.chain(on).for_each(add);
        }
    }
    let order = model.guests();
    order.into_iter().filter_map(|id| out.remove_entry(&id)).collect()
}

fn node(guest: &GuestId, suite: Option<&str>, case: Option<&str>) -> RunNode {
    RunNode {
        guest: guest.clone(),
        suite: suite.map(str::to_owned),
        case: case.map(str::to_owned),
        state: NodeState::Waiting,
        took_ms: 0,
        tally: Tally::default(),
        planned: 0,
        message: String::new(),
        folded: false,
    }
}

fn fill(row: &mut RunNode, view: Option<&GuestView>, ended: Option<&EndedCase>) {
    if let Some(ended) = ended {
        row.state = NodeState::Ended(ended.verdict);
        row.took_ms = ended.took_ms;
        row.message = ended.why();
        row.tally.add(ended.verdict);
    }
    let is_on = |(suite, case): &(vmdeck_model::ids::SuiteId, vmdeck_model::ids::CaseId)| {
        Some(suite.as_str()) == row.suite.as_deref() && Some(case.as_str()) == row.case.as_deref()
    };
    if let Some(view) = view.filter(|v| v.case.as_ref().is_some_and(is_on)) {
        row.state = NodeState::On(view.case_since_ms);
    }
}

/// Adds a guest with its rows, sums and folds taken care of.
fn push(model: &Model, guest: &GuestId, suites: Vec<RunNode>, out: &mut Vec<RunNode>) {
    let mut head = node(guest, None, None);
    let mut sums: BTreeMap<String, RunNode> = BTreeMap::new();
    for row in suites.iter().filter(|r| r.case.is_some()) {
        let suite = row.suite.clone().unwrap_or_default();
        let sum = sums.entry(suite.clone()).or_insert_with(|| node(guest, Some(&suite), None));
        for sum in [sum, &mut head] {
            add(sum, row);
        }
    }
    let is_folded = |row: &RunNode| model.panes.folded.contains(&row.selector());
    head.folded = is_folded(&head);
    let hidden = head.folded;
    out.push(head);
    if hidden {
        return;
    }
    let hits = suites.iter().filter(|r| r.case.is_some() && model.panes.run.shows(&r.selector()));
    let shown: HashSet<Option<String>> = hits.map(|r| r.suite.clone()).collect();
    let mut inside_folded = false;
    for row in suites {
        if row.case.is_none() {
            let mut sum = sums.remove(row.suite.as_deref().unwrap_or_default()).unwrap_or(row);
            sum.folded = is_folded(&sum);
            inside_folded = sum.folded;
            // With a filter, a suite that has nothing to show is not shown.
            if model.panes.run.filter.is_empty() || shown.contains(&sum.suite) {
                out.push(sum);
            }
        } else if !inside_folded && model.panes.run.shows(&row.selector()) {
            out.push(row);
        }
    }
}

fn add(sum: &mut RunNode, row: &RunNode) {
    sum.planned += 1;
    sum.took_ms += row.took_ms;
    if let NodeState::Ended(verdict) = row.state {
        sum.tally.add(verdict);
    }
    let rank = |state: NodeState| match state {
        NodeState::On(_) => 9,
        NodeState::Ended(Verdict::Infra) => 8,
        NodeState::Ended(Verdict::Failed) => 7,
        NodeState::Ended(Verdict::Cancelled) => 6,
        NodeState::Waiting => 5,
        NodeState::Ended(Verdict::Flaky) => 4,
        NodeState::Ended(Verdict::Passed) => 3,
        NodeState::Ended(Verdict::Skipped) => 2,
    };
    // The first case begins it; from then on the worst of them tells.
    if sum.planned == 1 || rank(row.state) > rank(sum.state) {
        sum.state = row.state;
    }
}
