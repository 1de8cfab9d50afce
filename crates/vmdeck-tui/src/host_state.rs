//! What this host has and does, as it was last looked up: its lock, its machines, what is free.

use std::collections::{BTreeMap, VecDeque};
use vmdeck_model::{
    event::{Finding, Holder},
    machine::OwnedMachine,
    memory::MemoryStanding,
};

/// A slot of the host lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRow {
    /// The directory of the slot.
    pub path: String,
    /// The state of the slot.
    pub state: LockState,
    /// The holder of the slot.
    pub holder: Option<Holder>,
}

/// The state of a slot of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// Nobody holds the slot.
    Free,
    /// A live process holds the slot.
    Held,
    /// The holder of the slot is gone.
    Stale,
}

/// What this host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The free disk space where the state folder is, in bytes.
    pub disk_free: u64,
    /// The free disk space below which a run does not start, in bytes.
    pub disk_min: u64,
    /// The free disk space below which preflight warns, in bytes.
    pub disk_warn: u64,
    /// The memory that the guests of a run need at a time, in bytes.
    pub memory_need: u64,
    /// The size that the disks of the guests may grow to, in bytes.
    pub disk_need: u64,
}

/// What a machine uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The resident memory, in bytes.
    pub memory: u64,
    /// The processor time so far, in milliseconds.
    pub cpu_ms: u64,
    /// The share of a processor since the last measurement, in per cent.
    pub cpu_percent: u64,
    /// The disk space, in bytes.
    pub disk: u64,
}

/// What this host has and does, as it was last looked up.
#[derive(Debug, Default)]
pub struct HostState {
    /// Every machine that the backends see.
    pub inventory: Vec<OwnedMachine>,
    /// What our machines use, by name.
    pub usage: BTreeMap<String, Usage>,
    /// What they used in the last minute, the newest last.
    pub lately: BTreeMap<String, VecDeque<Usage>>,
    /// The lock's slots.
    pub locks: Vec<LockRow>,
    /// Who waits for the lock, the first first.
    pub queue: Vec<Holder>,
    /// What the host's checks found.
    pub findings: Vec<Finding>,
    /// Whether the host was checked.
    pub is_known: bool,
    /// What the host has.
    pub capacity: Capacity,
    /// How its memory stands.
    pub memory: MemoryStanding,
}

/// How many measurements of a machine are kept: a minute, at one in two seconds.
const LATELY: usize = 30;

impl HostState {
    /// Takes in what our machines use now.
    pub fn measured(&mut self, usage: BTreeMap<String, Usage>) {
        self.lately.retain(|name, _| usage.contains_key(name));
        for (name, now) in &usage {
            let lately = self.lately.entry(name.clone()).or_default();
            if lately.len() == LATELY {
                lately.pop_front();
            }
            lately.push_back(*now);
        }
        self.usage = usage;
    }

    /// Returns one figure of a machine over the last minute, the newest last.
    pub fn lately(&self, machine: &str, figure: impl Fn(&Usage) -> u64) -> Vec<u64> {
        self.lately.get(machine).map(|all| all.iter().map(figure).collect()).unwrap_or_default()
    }
}
