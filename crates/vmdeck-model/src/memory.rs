//! Memory of a host that was promised to machines, as runs tell each other of it.

use crate::{
    ids::{GuestId, short_run},
    quantity::show_size,
    text::Clean,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Memory that a run was promised for its machines, or waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromisedMemory {
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<String>,
    /// The guests, as the run's config calls them.
    pub guests: Vec<String>,
    /// How much, in bytes.
    pub memory: u64,
    /// How much of it is used already, in bytes.
    pub used: u64,
}

/// How the memory of a host stands, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStanding {
    /// What the host has; `None` = it does not tell.
    pub total: Option<u64>,
    /// What programs can still use; `None` = the host does not tell.
    pub free: Option<u64>,
    /// What must stay free.
    pub reserve: u64,
    /// What all guests may have together (`host.memory`); `None` = what the host has.
    pub limit: Option<u64>,
    /// Why it cannot be seen who has some; `None` = it can.
    pub fault: Option<String>,
    /// What can be promised now; `None` = nothing limits it.
    pub left: Option<u64>,
    /// What could be promised if no guest had anything; `None` = nothing limits it.
    pub left_alone: Option<u64>,
    /// The machines that have some.
    pub promised: Vec<PromisedMemory>,
    /// Those who wait for some, the first first.
    pub waiting: Vec<PromisedMemory>,
}

impl MemoryStanding {
    /// Returns what was promised to machines and is not used yet: of the run, and of all others.
    pub fn unused(&self, run: Option<&str>) -> (u64, u64) {
        let (mut of_run, mut of_others) = (0_u64, 0_u64);
        for one in &self.promised {
            let is_of_run = run.is_some() && one.run.as_deref() == run;
            let sum = if is_of_run { &mut of_run } else { &mut of_others };
            *sum = sum.saturating_add(one.memory.saturating_sub(one.used));
        }
        (of_run, of_others)
    }
}

impl PromisedMemory {
    /// Returns for whom it is.
    pub fn whose(&self) -> String {
        let guests = self.guests.iter().map(|guest| format!("`{guest}`")).collect::<Vec<_>>().join(", ");
        let run = self.run.as_deref().map(|run| format!(" of run {}", short_run(run))).unwrap_or_default();
        // Another program wrote it.
        Clean::from_text(&format!("{guests}{run}")).into_string()
    }
}

impl fmt::Display for PromisedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has {}", self.whose(), show_size(self.memory))
    }
}

/// Who waits for memory, and for how much.
#[derive(Clone, Copy, Debug)]
pub struct WaitingMemory<'a> {
    /// The first of the guests.
    pub guest: &'a GuestId,
    /// Those that get theirs together with it.
    pub with: &'a [GuestId],
    /// What all of them need, in bytes.
    pub needs: u64,
    /// What can be had now, in bytes.
    pub left: u64,
    /// The place among those who wait; 1 = it is next.
    pub place: usize,
    /// The machines that have some.
    pub promised: &'a [PromisedMemory],
}

impl fmt::Display for WaitingMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guest, with, place, promised, .. } = *self;
        let (needs, left) = (show_size(self.needs), show_size(self.left));
        match with {
            [] => write!(f, "guest `{guest}` waits for {needs} of memory")?,
            with => {
                let with = with.iter().map(|guest| format!("`{guest}`")).collect::<Vec<_>>().join(", ");
                write!(f, "guests `{guest}`, {with} wait for {needs} of memory")?;
            }
        }
        let turn = match place {
            0 | 1 => None,
            2 => Some("another one comes first".to_owned()),
            place => Some(format!("{} others come first", place - 1)),
        };
        if self.left >= self.needs {
            return write!(f, ": there is enough, and {}", turn.as_deref().unwrap_or("it is next"));
        }
        write!(f, ", {left} can be had")?;
        if let Some(turn) = turn {
            write!(f, ", {turn}")?;
        }
        match promised {
            [] => write!(f, ": other programs have the rest"),
            [first] => write!(f, ": {first}"),
            [first, one] => write!(f, ": {first}, {one}"),
            [first, rest @ ..] => {
                let all: u64 = rest.iter().fold(0, |sum, one| one.memory.saturating_add(sum));
                write!(f, ": {first}, {} more have {}", rest.len(), show_size(all))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_how_much_is_a_clause_and_shows_no_escapes() {
        let promised = PromisedMemory {
            run: Some("0123456789abcdef".into()),
            guests: vec!["deb".into(), "\x1b[31mweb".into()],
            memory: 2 << 30,
            used: 0,
        };
        let text = promised.to_string();
        assert!(text.starts_with("`deb`, `") && text.ends_with(" has 2GiB"), "{text}");
        assert!(text.contains("of run 01234567") && !text.contains('\x1b'), "{text}");
        let (deb, web) = (GuestId::new("deb").expect("name"), GuestId::new("web").expect("name"));
        let has = PromisedMemory { run: None, guests: vec!["x".into()], memory: 4 << 30, used: 1 };
        let all = [has.clone(), has.clone(), has.clone()];
        let with = [web];
        let say = |with: &[GuestId], left: u64, place: usize, promised: &[PromisedMemory]| {
            let left = left << 30;
            WaitingMemory { guest: &deb, with, needs: 2 << 30, left, place, promised }.to_string()
        };
        let wanted = [
            (
                say(&[], 1, 1, &[]),
                "guest `deb` waits for 2GiB of memory, 1GiB can be had: other programs have the rest",
            ),
            (
                say(&[], 1, 2, &all[..1]),
                "guest `deb` waits for 2GiB of memory, 1GiB can be had, another one comes first: `x` has 4GiB",
            ),
            (
                say(&with, 0, 4, &all),
                "guests `deb`, `web` wait for 2GiB of memory, 0B can be had, 3 others come first: `x` has 4GiB, 2 more have 8GiB",
            ),
            (say(&[], 7, 2, &[]), "guest `deb` waits for 2GiB of memory: there is enough, and another one comes first"),
        ];
        for (text, wanted) in wanted {
            assert_eq!(text, wanted);
        }
    }
}
