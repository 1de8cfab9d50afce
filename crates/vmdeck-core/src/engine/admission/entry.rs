//! What is written in a ticket of the memory's book: for which machine, how much, and what keeps it.

use crate::host::{info, pids};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The most bytes of a ticket that are read.
pub(super) const SIZE: u64 = 4096;

/// What is written in a ticket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemoryEntry {
    /// The start of the host that it is of: memory is not kept over the next one.
    pub(super) boot: String,
    pub(super) run: Option<String>,
    /// The guests, in the words of a config.
    pub(super) guests: Vec<String>,
    /// How much is promised or wanted, in bytes.
    pub(super) memory: u64,
    pub(super) state: EntryState,
    /// The process that uses it.
    #[serde(default)]
    pub(super) process: Option<MachineProcess>,
    /// Whether the machine is up, and nobody can say what it uses.
    #[serde(default)]
    pub(super) is_up: bool,
}

/// How far a request for memory is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EntryState {
    /// It waits, and has nothing.
    #[default]
    Waiting,
    /// It has what it asked for.
    Held,
    /// Its run has ended, or does without the machine: the machine's own process has it.
    Left,
    /// It has it for a machine that was kept, as long as this journal is there.
    Kept(PathBuf),
}

/// The process of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MachineProcess {
    pub(super) pid: u32,
    /// When it started, in seconds since 1970.
    pub(super) started: u64,
}

impl MemoryEntry {
    /// Returns what is wanted for guests of a run of this host.
    pub(super) fn wanted(run: &str, guests: Vec<String>, memory: u64) -> Self {
        Self { boot: info::boot_id(), run: Some(run.to_owned()), guests, memory, ..Self::default() }
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes).ok().filter(|entry| entry.boot == info::boot_id())
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns how many bytes the machine uses of what it was promised.
    pub(super) fn used(&self) -> u64 {
        let measured = self.process.and_then(|process| {
            // In a container the numbers are others.
            let there = pids::are_of_the_host() && pids::started(process.pid) == Some(process.started);
            there.then(|| pids::private_memory(process.pid)).flatten()
        });
        match measured {
            Some(used) => used.min(self.memory),
            // What it uses is missing from what is free, and its own part is not known: better than to count it twice.
            None if self.is_up => self.memory,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_measured_where_it_can_be() {
        let own = pids::current();
        let process = MachineProcess { pid: own, started: pids::started(own).expect("it runs") };
        let entry = MemoryEntry { process: Some(process), ..MemoryEntry::wanted("r", vec!["deb".into()], 1 << 40) };
        assert_eq!(MemoryEntry::parse(&entry.bytes()), Some(entry.clone()));
        let used = entry.used();
        assert!(used > 1 << 18 && used < 1 << 38, "{used}");
        assert_eq!(MemoryEntry { memory: 7, ..entry.clone() }.used(), 7, "not more than its part");
        let other = MachineProcess { started: process.started - 1, ..process };
        assert_eq!(MemoryEntry { process: Some(other), ..entry.clone() }.used(), 0, "another process with its number");
        let up = MemoryEntry { process: None, is_up: true, ..entry };
        assert_eq!(up.used(), 1 << 40);
        let of_another_start = MemoryEntry { boot: "x".into(), ..up };
        assert_eq!(MemoryEntry::parse(&of_another_start.bytes()), None);
        assert_eq!(MemoryEntry::parse(b"\xff{"), None);
    }
}
