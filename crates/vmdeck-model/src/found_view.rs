//! The cases of a run that were found in its guests, as its events tell of them.

use super::{
    event::FoundCase,
    ids::{CaseId, GuestId, SuiteId},
};
use std::collections::BTreeMap;

/// A case for which others were found: its guest, suite, id and round.
pub type FoundFor = (GuestId, SuiteId, CaseId, u32);

/// What was found, for which case, and under which names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundView {
    of: BTreeMap<FoundFor, Vec<CaseId>>,
    /// What whoever listed them calls them, where their ids cannot hold it.
    names: BTreeMap<(SuiteId, CaseId), String>,
}

impl FoundView {
    /// Takes what was found, or a further part of it; returns the last that was known of before, if it is a further part.
    pub(super) fn take(&mut self, key: FoundFor, cases: &[FoundCase]) -> Option<CaseId> {
        for found in cases {
            if let Some(name) = &found.name {
                self.names.insert((key.1.clone(), found.case.clone()), name.clone());
            }
        }
        let known = self.of.entry(key).or_default();
        let last = known.last().cloned();
        known.extend(cases.iter().map(|found| found.case.clone()));
        last
    }

    /// Returns the cases that were found for this one; `None` = it stands for none, or they are not known yet.
    pub fn of(&self, key: &FoundFor) -> Option<&[CaseId]> {
        self.of.get(key).map(Vec::as_slice)
    }

    /// Returns each case of a guest for which others were found, with its suite and those.
    pub fn in_guest(&self, guest: &GuestId) -> impl Iterator<Item = (&SuiteId, &CaseId, &[CaseId])> {
        let of_guest = self.of.iter().filter(move |((of, ..), _)| of == guest);
        of_guest.map(|((_, suite, case, _), found)| (suite, case, &found[..]))
    }

    /// Returns the name of a case as whoever listed it has it, where its id cannot hold that.
    pub fn name(&self, suite: &SuiteId, case: &CaseId) -> Option<&str> {
        self.names.get(&(suite.clone(), case.clone())).map(String::as_str)
    }

    /// Returns what people are shown of a case: its id in words, and of one that was found its name.
    pub fn title(&self, suite: &SuiteId, case: &CaseId) -> String {
        let Some(name) = self.name(suite, case) else { return case.shown() };
        let values: Vec<String> = case.values().map(|(axis, value)| format!("{axis} {value}")).collect();
        let values = if values.is_empty() { String::new() } else { format!(" ({})", values.join(", ")) };
        format!("{}/{name}{values}", case.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_names_are_told_as_they_were() {
        let key =
            (GuestId::new("g").expect("name"), SuiteId::new("s").expect("name"), CaseId::new("c").expect("name"), 1);
        let found = |name: &str| {
            let case = key.2.found(name);
            let name = (case.path() != format!("c/{name}")).then(|| name.to_owned());
            FoundCase { case, name }
        };
        let mut view = FoundView::default();
        assert_eq!(view.take(key.clone(), &[found("a"), found("b[1]")]), None);
        assert_eq!(view.take(key.clone(), &[found("c")]), Some(key.2.found("b[1]")));
        assert_eq!(view.of(&key).map(<[_]>::len), Some(3));
        assert_eq!(view.title(&key.1, &key.2.found("b[1]")), "c/b[1]");
        assert_eq!(view.title(&key.1, &key.2.found("a")), "c/a");
    }
}
