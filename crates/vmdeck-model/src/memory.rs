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

/// Returns the sentence that a guest waits for memory.
pub fn waits(guest: &GuestId, needs: u64, left: u64, place: usize, promised: &[PromisedMemory]) -> String {
    let (needs, left) = (show_size(needs), show_size(left));
    let turn = if place > 1 { format!(", {} others come first", place - 1) } else { String::new() };
    let turn = if place == 2 { ", one other comes first".to_owned() } else { turn };
    let who = match promised {
        [] => "other programs have the rest".to_owned(),
        [first] => first.to_string(),
        [first, rest @ ..] => {
            let all: u64 = rest.iter().fold(0, |sum, one| one.memory.saturating_add(sum));
            format!("{first}, {} more have {}", rest.len(), show_size(all))
        }
    };
    format!("guest `{guest}` waits for {needs} of memory, {left} can be had{turn}: {who}")
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
        let deb = GuestId::new("deb").expect("name");
        let web = PromisedMemory { run: None, guests: vec!["web".into()], memory: 4 << 30, used: 1 };
        let cases: [(usize, &[PromisedMemory], &str); 3] = [
            (1, &[], "guest `deb` waits for 2GiB of memory, 1GiB can be had: other programs have the rest"),
            (
                2,
                std::slice::from_ref(&web),
                "guest `deb` waits for 2GiB of memory, 1GiB can be had, one other comes first: `web` has 4GiB",
            ),
            (
                4,
                &[web.clone(), web.clone(), web.clone()],
                "guest `deb` waits for 2GiB of memory, 1GiB can be had, 3 others come first: `web` has 4GiB, 2 more have 8GiB",
            ),
        ];
        for (place, promised, wanted) in cases {
            assert_eq!(waits(&deb, 2 << 30, 1 << 30, place, promised), wanted);
        }
    }
}
