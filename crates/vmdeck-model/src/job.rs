//! A job: suites, and the guests whose machines they need together.
//!
//! Which jobs a run has is `plan`'s matter, carrying them out is `engine::cases`'.

use super::{
    guest::{Fresh, Guest},
    ids::{CaseId, GuestId, RoleId},
    select::{Selector, word_of_case},
    subtest::Subtest,
    suite::{Case, CaseAction, Suite},
    when::WhenFacts,
};

use std::collections::{BTreeMap, BTreeSet};

/// A guest of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobGuest {
    /// The part that it has among the guests of the job; `None` = it is the only one.
    pub role: Option<RoleId>,
    /// The guest, under the name that it has in the run: the config's, or `SUITE.ROLE`. One guest of the config may fill several roles,
    /// with a machine for each.
    pub guest: Guest,
}

/// Suites with the guests that they need. Their machines are up together or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The guests; never empty.
    guests: Vec<JobGuest>,
    /// The suites, each with the selected cases only.
    pub suites: Vec<Suite>,
}

impl Job {
    /// Returns a job of one guest.
    pub fn new(guest: Guest, suites: Vec<Suite>) -> Self {
        Self { guests: vec![JobGuest { role: None, guest }], suites }
    }

    /// Returns the job of a suite with roles, with a guest for each of them in the order of their names; `None` = the suite has no
    /// roles, or one is filled by no guest that is known.
    pub fn of_roles(suite: &Suite, guests: &[Guest]) -> Option<Self> {
        let guests: Vec<JobGuest> = role_guests(suite, guests).collect();
        let is_whole = !guests.is_empty() && guests.len() == suite.roles.len();
        is_whole.then(|| Self { guests, suites: vec![suite.clone()] })
    }

    /// Returns the first guest: of a job without roles, the only one.
    pub fn guest(&self) -> &Guest {
        &self.guests[0].guest
    }

    /// Returns every guest with its role.
    pub fn members(&self) -> &[JobGuest] {
        &self.guests
    }

    /// Returns every guest.
    pub fn guests(&self) -> impl Iterator<Item = &Guest> {
        self.guests.iter().map(|member| &member.guest)
    }

    /// Returns every case with its suite and the guest in which it is run; one that is run in several guests comes once for each.
    pub fn cases(&self) -> impl Iterator<Item = (&Guest, &Suite, &Case)> {
        let cases = self.suites.iter().flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)));
        cases.flat_map(|(suite, case)| {
            let takes_part = |member: &&JobGuest| case.runs_on(member.role.as_ref());
            self.guests.iter().filter(takes_part).map(move |member| (&member.guest, suite, case))
        })
    }

    /// Returns every case that is run in this guest, with its suite.
    pub fn cases_in(&self, guest: &GuestId) -> impl Iterator<Item = (&Suite, &Case)> {
        self.cases().filter(move |(of, ..)| of.id == *guest).map(|(_, suite, case)| (suite, case))
    }

    /// Leaves out the cases, or the guests of a case, that are not wanted.
    pub(super) fn retain_cases(&mut self, mut wants: impl FnMut(&Suite, &Case, &JobGuest) -> bool) {
        for suite in &mut self.suites {
            let whole = suite.clone();
            let mut wanted = Vec::new();
            for all in &whole.cases {
                let mut case = all.clone();
                let of = |role: &RoleId| self.guests.iter().find(|member| member.role.as_ref() == Some(role));
                case.on.retain(|role| of(role).is_some_and(|member| wants(&whole, all, member)));
                let alone = self.guests.first().filter(|_| all.on.is_empty());
                if !case.on.is_empty() || alone.is_some_and(|member| wants(&whole, all, member)) {
                    wanted.push(case);
                }
            }
            let needed = with_needs(&whole, wanted.iter().map(|case| &case.id).collect());
            let own = |all: &Case| wanted.iter().find(|case| case.id == all.id).unwrap_or(all).clone();
            suite.cases = whole.cases.iter().filter(|all| needed.contains(&all.id)).map(own).collect();
        }
        self.suites.retain(|suite| !suite.cases.is_empty());
    }

    /// Leaves out every case, or guest of a case, for which the case is not meant; what needs it is skipped later.
    pub(super) fn drop_unmeant(&mut self) {
        let guests = &self.guests;
        for suite in &mut self.suites {
            suite.cases.retain_mut(|case| {
                let whole = case.clone();
                let of = |role: &RoleId| guests.iter().find(|member| member.role.as_ref() == Some(role));
                case.on.retain(|role| of(role).is_some_and(|member| is_meant_for(&whole, &member.guest, Some(role))));
                if whole.on.is_empty() { is_meant_for(&whole, &guests[0].guest, None) } else { !case.on.is_empty() }
            });
        }
        self.suites.retain(|suite| !suite.cases.is_empty());
    }

    /// Has cases that others are found for run only what these words select, where those say so.
    pub(super) fn narrow(&mut self, selectors: &[Selector]) {
        let guests: Vec<&GuestId> =
            self.guests.iter().flat_map(|member| [&member.guest.id, &member.guest.key]).collect();
        for suite in &mut self.suites {
            let of_suite = suite.id.clone();
            for case in &mut suite.cases {
                let id = case.id.clone();
                let CaseAction::Discover(discovery) = &mut case.action else { continue };
                if selectors.is_empty() || selectors.iter().any(|word| word.matches(&of_suite, &id, &guests)) {
                    continue;
                }
                let below = selectors.iter().filter(|word| word.matches_below(&of_suite, &id, &guests));
                discovery.wanted = below.cloned().collect();
            }
        }
    }

    /// Puts the cases that somebody calls red first, each suite and each of its cases otherwise as it was written; what a case needs
    /// stays before it. Returns how many were put first.
    pub fn put_first(&mut self, is_red: impl Fn(&Guest, &Suite, &Case) -> bool) -> usize {
        let mut count = 0;
        for suite in &mut self.suites {
            let is_wanted = |case: &Case| {
                let takes_part = |member: &&JobGuest| case.runs_on(member.role.as_ref());
                self.guests.iter().filter(takes_part).any(|member| is_red(&member.guest, suite, case))
            };
            let red: BTreeSet<&CaseId> =
                suite.cases.iter().filter(|case| is_wanted(case)).map(|case| &case.id).collect();
            count += red.len();
            let first: BTreeSet<CaseId> = with_needs(suite, red).into_iter().cloned().collect();
            suite.cases.sort_by_key(|case| !first.contains(&case.id));
        }
        self.suites.sort_by_key(|suite| {
            let mut cases = suite.cases.iter();
            !cases.any(|case| self.guests.iter().any(|member| is_red(&member.guest, suite, case)))
        });
        count
    }

    /// Gives every guest a fresh machine for the cases that ask for one.
    pub(super) fn mark_fresh(&mut self) {
        let is_asked = self.suites.iter().flat_map(|suite| &suite.cases).any(|case| case.fresh);
        for member in self.guests.iter_mut().filter(|member| is_asked && member.guest.fresh == Fresh::Run) {
            member.guest.fresh = Fresh::Marked;
        }
    }

    /// Has cases run only these tests of their own, by the SELECT word of the case.
    pub fn run_only(&mut self, subtests: &BTreeMap<String, Vec<Subtest>>) {
        for suite in &mut self.suites {
            for case in &mut suite.cases {
                let words = self.guests.iter().map(|member| word_of_case(&suite.id, &case.id, &member.guest.id));
                case.results.only = words.filter_map(|word| subtests.get(&word)).flatten().cloned().collect();
            }
        }
    }

    /// Puts the config's guests in the place of the job's own, under the names that those have in the run.
    pub(super) fn replace_guests(&mut self, guests: &[Guest]) {
        for member in &mut self.guests {
            if let Some(known) = guests.iter().find(|known| known.id == member.guest.key) {
                let (id, fresh) = (member.guest.id.clone(), member.guest.fresh);
                member.guest = Guest { id, fresh, ..known.clone() };
            }
        }
    }
}

/// Returns whether a word selects a case, or some of those that are found for it.
pub(super) fn selects(word: &Selector, suite: &Suite, case: &Case, guest: &[&GuestId]) -> bool {
    let may_hold = matches!(case.action, CaseAction::Discover(_));
    word.matches(&suite.id, &case.id, guest) || (may_hold && word.matches_below(&suite.id, &case.id, guest))
}

/// Returns whether a case is meant for a guest, in the part that it has in the suite.
pub fn is_meant_for(case: &Case, guest: &Guest, role: Option<&RoleId>) -> bool {
    let of_guest =
        [guest.os.as_str(), guest.key.as_str(), &guest.backend, &guest.arch, role.map_or("", RoleId::as_str)];
    let facts = WhenFacts { guest: of_guest, tags: &case.tags, matrix: &case.matrix };
    // What cannot be judged is refused where the config is read.
    case.when.as_ref().is_none_or(|when| when.holds(&facts).unwrap_or(false))
}

/// Returns these cases of a suite with those that they need, and those that go on beside them. One that goes on is judged by those beside which
/// it does: where none of them is chosen, all are.
pub(super) fn with_needs<'a>(suite: &'a Suite, chosen: BTreeSet<&'a CaseId>) -> BTreeSet<&'a CaseId> {
    let mut wanted = chosen;
    let goes_on = |case: &&Case| case.background.is_some();
    let first = suite.cases.iter().position(|case| goes_on(&case) && wanted.contains(&case.id));
    if let Some((_, behind)) = first.and_then(|at| suite.cases[at..].split_first()) {
        let beside = || behind.iter().filter(|case| !goes_on(case));
        if !beside().any(|case| wanted.contains(&case.id)) {
            wanted.extend(beside().filter(|case| !case.explicit).map(|case| &case.id));
        }
    }
    if let Some(last) = suite.cases.iter().rposition(|case| wanted.contains(&case.id)) {
        wanted.extend(suite.cases[..last].iter().filter(goes_on).map(|case| &case.id));
    }
    // What is needed stands before what needs it.
    for case in suite.cases.iter().rev() {
        if wanted.contains(&case.id) {
            wanted.extend(&case.needs);
        }
    }
    wanted
}

/// Returns the guests that fill the roles of a suite, under the names that they have in a run, in the order of the roles; one that is
/// filled by no guest that is known is left out.
pub(super) fn role_guests<'a>(suite: &'a Suite, guests: &'a [Guest]) -> impl Iterator<Item = JobGuest> {
    suite.roles.iter().filter_map(|(role, of)| {
        let guest = guests.iter().find(|guest| guest.id == *of)?;
        let id = GuestId::of_role(suite.id.as_str(), role).ok()?;
        Some(JobGuest { role: Some(role.clone()), guest: Guest { id, ..guest.clone() } })
    })
}
