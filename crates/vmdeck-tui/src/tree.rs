//! The rows of the run pane: guests, their suites, the suites' cases, with what is known of each.
//!
//! From the run if there is one, else from the config: then it is what could be run.

use super::model::{Model, Watch};
use std::collections::{BTreeMap, HashMap, HashSet};
use vmdeck_model::{
    ids::GuestId,
    outcome::{Tally, Verdict},
    plan,
    run_view::{EndedCase, GuestView},
};

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not begun.
    Waiting,
    /// It is on, since this time of the run.
    On(u64),
    /// It has ended.
    Ended(Verdict),
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its guest.
    pub guest: GuestId,
    /// Its suite, if it is one or a part of one.
    pub suite: Option<String>,
    /// Its case, if it is one.
    pub case: Option<String>,
    /// How it stands.
    pub standing: Standing,
    /// How long it took, milliseconds; of a suite or guest, all cases together.
    pub took_ms: u64,
    /// Cases that have ended.
    pub tally: Tally,
    /// Cases in all.
    pub planned: usize,
    /// Why it was no pass.
    pub message: String,
    /// Whether its children are folded in.
    pub folded: bool,
}

impl Node {
    /// The SELECT word that means it.
    pub fn selector(&self) -> String {
        match (&self.suite, &self.case) {
            (Some(suite), Some(case)) => format!("{suite}/{case}@{}", self.guest),
            (Some(suite), None) => format!("{suite}@{}", self.guest),
            _ => format!("@{}", self.guest),
        }
    }

    /// Its name in the pane.
    pub fn name(&self) -> &str {
        self.case.as_deref().or(self.suite.as_deref()).unwrap_or(self.guest.as_str())
    }

    /// How deep it stands.
    pub fn depth(&self) -> usize {
        usize::from(self.suite.is_some()) + usize::from(self.case.is_some())
    }
}

/// All rows that are not folded away or filtered out.
pub fn rows(model: &Model) -> Vec<Node> {
    let mut last: HashMap<(&str, &str, &str), &EndedCase> = HashMap::new();
    for case in &model.view.cases {
        last.insert((case.guest.as_str(), case.suite.as_str(), case.case.as_str()), case);
    }
    let mut out = Vec::new();
    for (guest, names) in planned(model) {
        let view = model.view.guests.get(&guest);
        let mut suites: Vec<Node> = Vec::new();
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

/// The cases of each guest, in the order in which they run.
fn planned(model: &Model) -> Vec<(GuestId, Vec<String>)> {
    let mut out: BTreeMap<GuestId, Vec<String>> = BTreeMap::new();
    if let Some(setup) = model.setup.as_ref().filter(|_| !matches!(model.watch, Watch::Other { .. } | Watch::Replay)) {
        for job in plan::select(setup, &model.select, None) {
            let names = job.cases().map(|(suite, case)| format!("{}/{}", suite.id, case.id)).collect();
            out.insert(job.guest.id.clone(), names);
        }
    }
    for (id, guest) in &model.view.guests {
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
            let ended = model.view.cases.iter().filter(|c| c.guest == *id).map(|c| format!("{}/{}", c.suite, c.case));
            let on = guest.case.iter().map(|(suite, case)| format!("{suite}/{case}"));
            ended.chain(on).for_each(add);
        }
    }
    let order = model.guests();
    order.into_iter().filter_map(|id| out.remove_entry(&id)).collect()
}

fn node(guest: &GuestId, suite: Option<&str>, case: Option<&str>) -> Node {
    Node {
        guest: guest.clone(),
        suite: suite.map(str::to_owned),
        case: case.map(str::to_owned),
        standing: Standing::Waiting,
        took_ms: 0,
        tally: Tally::default(),
        planned: 0,
        message: String::new(),
        folded: false,
    }
}

fn fill(row: &mut Node, view: Option<&GuestView>, ended: Option<&EndedCase>) {
    if let Some(ended) = ended {
        row.standing = Standing::Ended(ended.verdict);
        row.took_ms = ended.took_ms;
        row.message.clone_from(&ended.message);
        row.tally.add(ended.verdict);
    }
    let is_on = |(suite, case): &(vmdeck_model::ids::SuiteId, vmdeck_model::ids::CaseId)| {
        Some(suite.as_str()) == row.suite.as_deref() && Some(case.as_str()) == row.case.as_deref()
    };
    if let Some(view) = view.filter(|v| v.case.as_ref().is_some_and(is_on)) {
        row.standing = Standing::On(view.case_since_ms);
    }
}

/// Adds a guest with its rows, sums and folds taken care of.
fn push(model: &Model, guest: &GuestId, suites: Vec<Node>, out: &mut Vec<Node>) {
    let mut head = node(guest, None, None);
    let mut sums: BTreeMap<String, Node> = BTreeMap::new();
    for row in suites.iter().filter(|r| r.case.is_some()) {
        let suite = row.suite.clone().unwrap_or_default();
        let sum = sums.entry(suite.clone()).or_insert_with(|| node(guest, Some(&suite), None));
        for sum in [sum, &mut head] {
            add(sum, row);
        }
    }
    let is_folded = |row: &Node| model.folded.contains(&row.selector());
    head.folded = is_folded(&head);
    let hidden = head.folded;
    out.push(head);
    if hidden {
        return;
    }
    let hits = suites.iter().filter(|r| r.case.is_some() && model.run.shows(&r.selector()));
    let shown: HashSet<Option<String>> = hits.map(|r| r.suite.clone()).collect();
    let mut inside_folded = false;
    for row in suites {
        if row.case.is_none() {
            let mut sum = sums.remove(row.suite.as_deref().unwrap_or_default()).unwrap_or(row);
            sum.folded = is_folded(&sum);
            inside_folded = sum.folded;
            // With a filter, a suite that has nothing to show is not shown.
            if model.run.filter.is_empty() || shown.contains(&sum.suite) {
                out.push(sum);
            }
        } else if !inside_folded && model.run.shows(&row.selector()) {
            out.push(row);
        }
    }
}

fn add(sum: &mut Node, row: &Node) {
    sum.planned += 1;
    sum.took_ms += row.took_ms;
    if let Standing::Ended(verdict) = row.standing {
        sum.tally.add(verdict);
    }
    let rank = |standing: Standing| match standing {
        Standing::On(_) => 9,
        Standing::Ended(Verdict::Infra) => 8,
        Standing::Ended(Verdict::Failed) => 7,
        Standing::Ended(Verdict::Cancelled) => 6,
        Standing::Waiting => 5,
        Standing::Ended(Verdict::Flaky) => 4,
        Standing::Ended(Verdict::Passed) => 3,
        Standing::Ended(Verdict::Skipped) => 2,
    };
    // The first case begins it; from then on the worst of them tells.
    if sum.planned == 1 || rank(row.standing) > rank(sum.standing) {
        sum.standing = row.standing;
    }
}
