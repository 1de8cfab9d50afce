//! The rows of the run pane: guests, their suites, the suites' cases, with what is known of each.
//!
//! From the run if there is one, else from the config: then it is what could be run.

use super::{
    look::CaseOrder,
    model::{ListState, Model, RecordSource},
    run_node::{NodeState, RunNode},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};
use vmdeck_model::{
    ids::{CaseId, GuestId, SuiteId},
    outcome::{Tally, Verdict},
    plan,
    run_view::{EndedCase, GuestView},
};

/// Most sub-tests of a case that have a row each.
const SUBTESTS: usize = 5_000;

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
            row.title = found_title(model, suite, case);
            fill(&mut row, view, last.get(&(guest.as_str(), suite, case)).copied());
            suites.push(row);
        }
        let suites = in_order(suites, model.appearance.look.order);
        push(model, &guest, suites, &mut out);
    }
    out
}

/// Returns the rows of a guest's suites in the wanted order: the cases of a suite, and the suites by the first of them.
fn in_order(rows: Vec<RunNode>, order: CaseOrder) -> Vec<RunNode> {
    let worth = |row: &RunNode| match order {
        CaseOrder::Planned => 0,
        CaseOrder::FailedFirst => u64::from(row.has_failed()),
        CaseOrder::SlowestFirst => row.took_ms,
    };
    let mut suites: Vec<Vec<RunNode>> = Vec::new();
    for row in rows {
        match suites.last_mut() {
            Some(suite) if row.case.is_some() => suite.push(row),
            _ => suites.push(vec![row]),
        }
    }
    for suite in &mut suites {
        suite[1..].sort_by_key(|row| Reverse(worth(row)));
    }
    suites.sort_by_key(|suite| Reverse(suite.get(1).map_or(0, worth)));
    suites.into_iter().flatten().collect()
}

/// Returns whether a case is shown: each word of the filter must fit, its name, after `is:` how it is, or after `tag:` a tag.
fn is_shown(model: &Model, row: &RunNode) -> bool {
    let name = row.selector();
    model.panes.run.filter.split_whitespace().all(|word| match word.split_once(':') {
        Some(("is", state)) => is_in_state(row, &state.to_lowercase()),
        Some(("tag", tag)) => has_tag(model, row, tag),
        _ => ListState { filter: word.to_owned(), ..ListState::default() }.shows(&name),
    })
}

/// Returns whether a case has a tag, of which the beginning is enough.
fn has_tag(model: &Model, row: &RunNode, tag: &str) -> bool {
    let suites = model.setup.iter().flat_map(|setup| &setup.suites);
    let of_suite =
        suites.filter(|suite| Some(suite.id.as_str()) == row.suite.as_deref()).flat_map(|suite| &suite.cases);
    let case = of_suite.into_iter().find(|case| Some(case.id.as_str()) == row.case.as_deref());
    case.is_some_and(|case| case.tags.iter().any(|own| own.starts_with(tag)))
}

/// Returns whether a case is in a state, of which the beginning of the word is enough: a verdict, `red`, `running` or `waiting`.
fn is_in_state(row: &RunNode, word: &str) -> bool {
    match row.state {
        NodeState::Waiting => "waiting".starts_with(word),
        NodeState::On(_) => "running".starts_with(word),
        NodeState::Ended(verdict) => verdict.to_string().starts_with(word) || (word == "red" && verdict.is_failure()),
    }
}

/// Returns the cases of each guest, in the order in which they run.
fn planned(model: &Model) -> Vec<(GuestId, Vec<String>)> {
    let mut out: BTreeMap<GuestId, Vec<String>> = BTreeMap::new();
    if let Some(setup) = model
        .setup
        .as_ref()
        .filter(|_| !matches!(model.shown.record, RecordSource::Other { .. } | RecordSource::Replay))
    {
        for job in plan::select(setup, &model.select) {
            for guest in job.guests() {
                let names = job.cases_in(&guest.id).map(|(suite, case)| format!("{}/{}", suite.id, case.id)).collect();
                out.insert(guest.id.clone(), names);
            }
        }
    }
    // The cases of further machines are told of the guest.
    for (id, guest) in model.shown.view.guests.iter().filter(|(_, guest)| guest.one_more_of.is_none()) {
        let names: &mut Vec<String> = out.entry(id.clone()).or_default();
        for (suite, case, found) in model.shown.view.found.in_guest(id) {
            let of = format!("{suite}/{case}");
            if let Some(at) = names.iter().position(|name| *name == of) {
                names.splice(at..=at, found.iter().map(|found| format!("{suite}/{found}")));
            }
        }
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

/// Returns what a case that was found is called, where its id cannot hold that.
fn found_title(model: &Model, suite: &str, case: &str) -> Option<String> {
    if !case.contains('/') {
        return None;
    }
    let (suite, case) = (SuiteId::new(suite).ok()?, CaseId::try_from(case.to_owned()).ok()?);
    let found = &model.shown.view.found;
    found.name(&suite, &case).map(|_| found.title(&suite, &case))
}

fn node(guest: &GuestId, suite: Option<&str>, case: Option<&str>) -> RunNode {
    RunNode {
        guest: guest.clone(),
        suite: suite.map(str::to_owned),
        case: case.map(str::to_owned),
        title: None,
        subtest: None,
        has_subtests: false,
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
        if let Some(subtests) = &ended.subtests {
            row.has_subtests = subtests.tally.total() > 0;
            if row.message.is_empty() && row.has_subtests {
                row.message = subtests.tally.to_string();
            }
        }
    }
    let is_on = |(suite, case): &(SuiteId, CaseId)| {
        Some(suite.as_str()) == row.suite.as_deref() && Some(case.as_str()) == row.case.as_deref()
    };
    if let Some((_, since)) = view.and_then(|view| view.background.iter().find(|(going, _)| is_on(going))) {
        row.state = NodeState::On(*since);
        "goes on beside the others".clone_into(&mut row.message);
    }
    if let Some(view) = view.filter(|v| v.case.as_ref().is_some_and(is_on)) {
        row.state = NodeState::On(view.case_since_ms);
        row.message = view.progress.as_ref().map(ToString::to_string).unwrap_or_default();
        row.has_subtests = !view.subtests.list.is_empty();
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
    let hits = suites.iter().filter(|r| r.case.is_some() && is_shown(model, r));
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
        } else if !inside_folded && is_shown(model, &row) {
            push_case(model, row, out);
        }
    }
}

/// Adds a case with the tests that it ran itself: those that failed, or all.
fn push_case(model: &Model, mut row: RunNode, out: &mut Vec<RunNode>) {
    if !row.has_subtests {
        return out.push(row);
    }
    row.folded = !model.panes.unfolded.contains(&row.selector());
    let at = out.len();
    out.push(row);
    let row = out[at].clone();
    let ended = model.shown.view.last_end(&row.guest, row.suite.as_deref(), row.case.as_deref());
    let running = model.shown.view.guests.get(&row.guest).map(|guest| &guest.subtests);
    let subtests = match row.state {
        NodeState::On(_) => running,
        _ => ended.and_then(|ended| ended.subtests.as_ref()),
    };
    let list = subtests.iter().flat_map(|subtests| &subtests.list);
    let shown = list.filter(|subtest| !row.folded || subtest.status.is_failure() || subtest.flaky);
    out.extend(shown.take(SUBTESTS).map(|subtest| row.with_subtest(subtest)));
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

#[cfg(test)]
mod tests {
    use super::{CaseId, SuiteId};
    use crate::fixture::{TestCockpit, guest};
    use vmdeck_model::{
        event::{EventKind, FoundCase},
        outcome::Verdict,
        subtest::SubtestStatus,
    };

    fn cases(case: &TestCockpit) -> Vec<String> {
        case.model.tree.iter().filter(|row| row.case.is_some()).map(crate::run_node::RunNode::selector).collect()
    }

    #[test]
    fn the_order_is_as_planned_failed_first_or_slowest_first_and_is_kept() {
        let mut case = TestCockpit::with_run();
        case.case(10, "deb", "install", Verdict::Passed).case(20, "deb", "remove", Verdict::Failed);
        let planned = cases(&case);
        assert_eq!(planned[..2], ["smoke/install@deb", "smoke/remove@deb"]);
        case.keys("D");
        assert_eq!(cases(&case)[..2], ["smoke/remove@deb", "smoke/install@deb"]);
        case.keys("D D");
        assert_eq!(cases(&case), planned);
        assert_eq!(case.model.appearance.look.order, crate::look::CaseOrder::Planned);
    }

    #[test]
    fn a_case_shows_the_tests_of_its_own_that_failed_and_all_of_them_where_it_is_unfolded() {
        let mut case = TestCockpit::with_run();
        case.case_begins(10, "deb", "install");
        for (name, status) in
            [("a > one", SubtestStatus::Passed), ("a > two", SubtestStatus::Failed), ("b", SubtestStatus::Skipped)]
        {
            case.subtest(20, "deb", "install", name, status);
        }
        let rows = |case: &TestCockpit| -> Vec<String> {
            let rows = case.model.tree.iter().filter(|row| row.subtest.is_some());
            rows.map(|row| format!("{} {:?}", row.name(), row.state)).collect()
        };
        assert_eq!(rows(&case), ["a > two Ended(Failed)"], "while it runs");
        case.case(30, "deb", "install", Verdict::Failed);
        assert_eq!(rows(&case), ["a > two Ended(Failed)"]);
        case.keys("5 g down down right");
        assert_eq!(rows(&case).len(), 3, "{:?}", rows(&case));
        case.keys("down left");
        assert_eq!(rows(&case).len(), 1);
        assert!(case.model.tree[case.model.panes.run.at].is_case(), "the case is current again");
    }

    #[test]
    fn a_case_that_goes_on_is_shown_beside_those_behind_it() {
        let mut case = TestCockpit::with_run();
        case.case_goes_on(10, "deb", "install").case_begins(20, "deb", "remove");
        let rows = |case: &TestCockpit| -> Vec<String> {
            let deb = case.model.tree.iter().filter(|row| row.is_case() && row.guest == guest("deb"));
            deb.map(|row| format!("{} {:?} {}", row.name(), row.state, row.message)).collect()
        };
        assert_eq!(rows(&case), ["install On(10) goes on beside the others", "remove On(20) "]);
        case.case(30, "deb", "remove", Verdict::Passed);
        assert_eq!(rows(&case), ["install On(10) goes on beside the others", "remove Ended(Passed) "]);
        case.case(40, "deb", "install", Verdict::Passed);
        assert_eq!(rows(&case)[0], "install Ended(Passed) ");
    }

    #[test]
    fn cases_that_are_found_stand_in_the_place_of_the_one_for_which_they_are() {
        let mut case = TestCockpit::with_run();
        let id = CaseId::new("install").expect("name");
        let found = |name: &str| FoundCase { case: id.found(name), name: name.contains('[').then(|| name.to_owned()) };
        let kind = EventKind::CasesFound {
            guest: guest("deb"),
            suite: SuiteId::new("smoke").expect("name"),
            case: id.clone(),
            round: 1,
            cases: vec![found("a"), found("b[1]")],
        };
        case.event(10, kind);
        let names: Vec<String> =
            case.model.tree.iter().filter(|row| row.is_case()).map(|row| row.name().into_owned()).collect();
        assert_eq!(names, ["install/a", "install/b[1]", "remove", "install"], "the other guest has found none yet");
        assert!(cases(&case)[1].starts_with("smoke/install/b_1_-"), "it is selected by its id");
        assert_eq!(case.model.shown.view.planned, 4);
    }

    #[test]
    fn cases_are_filtered_by_how_they_are_and_by_their_names() {
        let mut case = TestCockpit::with_run();
        case.case(10, "deb", "install", Verdict::Passed).case(20, "deb", "remove", Verdict::Infra);
        for (filter, shown) in [
            ("is:passed", &["smoke/install@deb"][..]),
            ("is:red", &["smoke/remove@deb"]),
            ("is:inf", &["smoke/remove@deb"]),
            ("is:waiting", &["smoke/install@win"]),
            ("install !deb", &["smoke/install@win"]),
            ("is:passed win", &[]),
            ("is:", &["smoke/install@deb", "smoke/remove@deb", "smoke/install@win"]),
        ] {
            case.keys("5 /").type_in(filter).keys("enter");
            assert_eq!(cases(&case), shown, "{filter}");
            case.keys("esc");
        }
    }
}
