//! Where a shell is opened: what the word after `vmdeck shell` means, and what a suite's commands have there.

use super::runs;
use std::collections::{BTreeMap, BTreeSet};
use vmdeck_core::{assets::snapshot::store::StoredSnapshot, history};
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    ids::GuestId,
    plan::{self, Setup},
    run_view::RunView,
    select::Selector,
    suite::{Case, Suite},
};

/// A place for a shell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ShellPlace {
    /// The name of the guest.
    pub(super) guest: String,
    /// Only this machine of it.
    pub(super) machine: Option<String>,
    /// The suite whose environment the shell has.
    pub(super) suite: Option<String>,
    /// The case, where one was named.
    pub(super) case: Option<String>,
    /// The id of the run, where one was named.
    pub(super) run: Option<String>,
}

/// Returns what a word means: a guest, or a case of an earlier run, `RUN/CASE`, in the machine that was kept of it.
pub(super) fn of_word(word: &str) -> Result<ShellPlace> {
    let Some((run, case)) = word.split_once('/') else {
        return Ok(ShellPlace { guest: word.to_owned(), ..ShellPlace::default() });
    };
    let record = runs::find(Some(run))?;
    let cannot = |e| Fault::user(format!("cannot read the record `{}`", record.display())).because(e);
    in_run(&history::view(&record).map_err(cannot)?, run, case)
}

/// Returns the place of what is kept of a case that failed, `RUN/CASE`: of several, the newest.
pub(super) fn of_checkpoint(word: &str, kept: &[StoredSnapshot]) -> Option<ShellPlace> {
    let (run, case) = word.split_once('/').filter(|(run, _)| !run.is_empty())?;
    let (name, guest) = case.split_once('@').map_or((case, None), |(name, guest)| (name, Some(guest)));
    let found = kept.iter().find_map(|snapshot| {
        let facts = &snapshot.facts;
        let (of_run, failed) = facts.failed.as_ref()?;
        let (_, short) = failed.split_once('/')?;
        let is_it = of_run.starts_with(run) && (failed == name || short == name);
        (is_it && guest.is_none_or(|guest| guest == facts.guest)).then_some((facts, of_run, failed))
    });
    let (facts, run, failed) = found?;
    let (suite, case) = failed.split_once('/')?;
    Some(ShellPlace {
        guest: facts.guest.clone(),
        machine: None,
        suite: Some(suite.to_owned()),
        case: Some(case.to_owned()),
        run: Some(run.clone()),
    })
}

fn in_run(view: &RunView, run: &str, case: &str) -> Result<ShellPlace> {
    let (name, wanted_guest) = case.split_once('@').map_or((case, None), |(name, guest)| (name, Some(guest)));
    let is_it = |planned: &str| planned == name || planned.split_once('/').is_some_and(|(_, case)| case == name);
    let mut found: Vec<(&GuestId, &str)> = Vec::new();
    for (id, guest) in view.guests.iter().filter(|(id, _)| wanted_guest.is_none_or(|wanted| wanted == id.as_str())) {
        found.extend(guest.names.iter().filter(|planned| is_it(planned)).map(|planned| (id, planned.as_str())));
    }
    let nothing = || Fault::user(format!("cannot open a shell at `{run}/{case}`"));
    match found[..] {
        [(id, planned)] => {
            let (suite, case) = planned.split_once('/').unwrap_or((planned, ""));
            let machine =
                view.guests[id].machine.clone().ok_or_else(|| nothing().because(format!("`{id}` had no machine")))?;
            Ok(ShellPlace {
                guest: id.to_string(),
                machine: Some(machine),
                suite: Some(suite.to_owned()),
                case: Some(case.to_owned()),
                run: view.run.clone(),
            })
        }
        [] => Err(nothing().because("the run has no such case").hint("`vmdeck replay RUN` shows its cases")),
        _ => {
            let all: Vec<String> = found.iter().map(|(id, planned)| format!("{run}/{planned}@{id}")).collect();
            Err(nothing().because(format!("it means {}", all.join(", "))).hint("name one of them"))
        }
    }
}

/// Returns the suite whose environment the shell has: the one that is named, else the only one that runs on the guest; an error where
/// the one that is named does not.
pub(super) fn suite_of<'a>(setup: &'a Setup, guest: &Guest, wanted: Option<&str>) -> Result<Option<&'a Suite>> {
    let here =
        Selector::parse(&format!("@{}", guest.id)).map_or_else(|_| Vec::new(), |word| plan::select(setup, &[word]));
    let cases = here.iter().flat_map(|job| job.cases_in(&guest.id));
    let names: BTreeSet<String> = cases.map(|(suite, _)| suite.id.to_string()).collect();
    let name = match wanted {
        Some(wanted) if !names.contains(wanted) => {
            let known = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Fault::user(format!("cannot use the environment of suite `{wanted}`"))
                .because(format!("it does not run on `{}`", guest.id))
                .hint(if known.is_empty() { "no suite does".to_owned() } else { format!("these do: {known}") }));
        }
        Some(wanted) => wanted.to_owned(),
        None if names.len() == 1 => names.into_iter().next().unwrap_or_default(),
        None => return Ok(None),
    };
    Ok(setup.suites.iter().find(|suite| suite.id.as_str() == name))
}

/// Returns the case whose place the shell has.
pub(super) fn case_of<'a>(suite: &'a Suite, place: &ShellPlace) -> Option<&'a Case> {
    suite.cases.iter().find(|case| Some(case.id.as_str()) == place.case.as_deref())
}

/// Returns the variables that the commands of a suite have there.
pub(super) fn environment(suite: &Suite, guest: &Guest, place: &ShellPlace) -> BTreeMap<String, String> {
    let mut env = suite.env.clone();
    env.extend(case_of(suite, place).map(|case| case.env.clone()).unwrap_or_default());
    let told = [
        ("VMDECK", Some("1")),
        ("VMDECK_RUN", place.run.as_deref()),
        ("VMDECK_GUEST", Some(guest.id.as_str())),
        ("VMDECK_SUITE", Some(suite.id.as_str())),
        ("VMDECK_CASE", place.case.as_deref()),
    ];
    env.extend(told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))));
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::event::{Event, EventKind, PlannedGuest};

    fn view() -> RunView {
        let planned = |name: &str, names: &[&str]| PlannedGuest {
            guest: GuestId::new(name).expect("name"),
            backend: "qemu".into(),
            os: "linux".into(),
            isolated: true,
            cases: names.len(),
            one_more_of: None,
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        };
        let kind = EventKind::RunStarted {
            run: vmdeck_model::ids::RunId::from_bits(0x5bba_890d_0000_0001),
            version: String::new(),
            host: String::new(),
            dir: String::new(),
            selection: Vec::new(),
            config: None,
            guests: vec![planned("deb", &["unit/parse", "unit/print", "smoke/parse"]), planned("win", &["unit/parse"])],
            cases: 4,
            part: vmdeck_model::shard::RunPart::default(),
            origins: Vec::new(),
        };
        let at = chrono::DateTime::UNIX_EPOCH;
        let mut view = RunView::of(&[Event { seq: 0, at, elapsed_ms: 0, origin: None, kind }]);
        for guest in view.guests.values_mut() {
            guest.machine = Some("vmdeck-1".into());
        }
        view
    }

    #[test]
    fn a_case_of_a_run_is_one_place_or_it_is_said_which_it_could_be() {
        let found = |case: &str| {
            in_run(&view(), "5bba", case).map(|p| (p.guest, p.suite.unwrap_or_default(), p.case.unwrap_or_default()))
        };
        let is = |guest: &str, suite: &str, case: &str| (guest.to_owned(), suite.to_owned(), case.to_owned());
        assert_eq!(found("print").expect("found"), is("deb", "unit", "print"));
        assert_eq!(found("smoke/parse").expect("found"), is("deb", "smoke", "parse"));
        assert_eq!(found("unit/parse@win").expect("found"), is("win", "unit", "parse"));
        let said = found("unit/parse").expect_err("two").to_string();
        assert!(said.contains("5bba/unit/parse@deb, 5bba/unit/parse@win"), "{said}");
        for none in ["nothing", "unit/parse@mac", "", "@deb"] {
            assert!(found(none).expect_err("none").to_string().contains("no such case"), "{none}");
        }
        assert_eq!(of_word("deb").expect("a guest"), ShellPlace { guest: "deb".into(), ..ShellPlace::default() });
    }
}
