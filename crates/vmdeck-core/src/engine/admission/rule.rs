//! Who may take memory now: pure arithmetic over what is free, what was promised and who waits.
//!
//! What a machine was promised and does not use yet is not free, although the host still counts it so.

use std::{collections::BTreeSet, time::Duration};

/// How long those who need less may go before one that has no room yet. After that, what becomes free is kept for it.
pub(super) const PASSED: Duration = Duration::from_mins(1);

/// Memory that was promised to a machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) memory: u64,
    /// How much of it the machine uses already.
    pub(super) used: u64,
}

/// Somebody who waits for memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryWaiter {
    /// The name of its ticket: the smaller, the longer it waits.
    pub(super) name: String,
    pub(super) memory: u64,
    pub(super) waited: Duration,
}

/// The memory of this host, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostMemory {
    /// What programs can still use; `None` = the host does not tell.
    pub(super) free: Option<u64>,
    /// What must stay free.
    pub(super) reserve: u64,
    /// What all guests may have together; `None` = what the host has.
    pub(super) limit: Option<u64>,
}

impl HostMemory {
    /// Returns what may be promised now; `None` = nothing says so.
    pub(super) fn left(&self, promised: &[Promise]) -> Option<u64> {
        let unused: u64 = sum(promised.iter().map(|p| p.memory.saturating_sub(p.used)));
        let of_host = self.free.map(|free| free.saturating_sub(self.reserve).saturating_sub(unused));
        let of_limit = self.limit.map(|limit| limit.saturating_sub(sum(promised.iter().map(|p| p.memory))));
        [of_host, of_limit].into_iter().flatten().min()
    }

    /// Returns what may be promised once every machine that has something is gone; `None` = nothing says so.
    pub(super) fn left_alone(&self, promised: &[Promise]) -> Option<u64> {
        let used = sum(promised.iter().map(|p| p.used));
        Self { free: self.free.map(|free| free.saturating_add(used)), ..*self }.left(&[])
    }

    fn has(&self, memory: u64, promised: &[Promise]) -> bool {
        self.left(promised).is_none_or(|left| memory <= left)
    }
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

/// Why somebody does not get memory now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is not enough.
    TooLittle,
    /// It is the turn of this one.
    TurnOf(String),
}

/// Returns why `ours` does not get its memory now; `None` = it does. `older` = those who came before; `ignored` = those of them that did
/// not go when they could.
pub(super) fn refusal(
    ours: u64,
    older: &[MemoryWaiter],
    ignored: &BTreeSet<String>,
    host: &HostMemory,
    promised: &[Promise],
) -> Option<Refusal> {
    if !host.has(ours, promised) {
        return Some(Refusal::TooLittle);
    }
    let alone = host.left_alone(promised);
    let can_ever = |waiter: &&MemoryWaiter| alone.is_none_or(|alone| waiter.memory <= alone);
    let is_before = |waiter: &&MemoryWaiter| host.has(waiter.memory, promised) || waiter.waited >= PASSED;
    let mut before = older.iter().filter(|waiter| !ignored.contains(&waiter.name)).filter(can_ever);
    before.find(is_before).map(|waiter| Refusal::TurnOf(waiter.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn waiter(name: &str, memory: u64, waited: u64) -> MemoryWaiter {
        MemoryWaiter { name: name.into(), memory: memory * GIB, waited: Duration::from_secs(waited) }
    }

    fn host(free: u64, reserve: u64, limit: Option<u64>) -> HostMemory {
        HostMemory { free: Some(free * GIB), reserve: reserve * GIB, limit: limit.map(|l| l * GIB) }
    }

    #[test]
    fn what_was_promised_and_is_not_used_is_not_free() {
        let promised = [Promise { memory: 4 * GIB, used: GIB }];
        let no = BTreeSet::new();
        // 10 free, 2 stay, 3 will be used by the other: 5 are left.
        assert_eq!(refusal(5 * GIB, &[], &no, &host(10, 2, None), &promised), None);
        assert_eq!(refusal(5 * GIB + 1, &[], &no, &host(10, 2, None), &promised), Some(Refusal::TooLittle));
        // A limit counts what was promised, used or not.
        assert_eq!(refusal(2 * GIB, &[], &no, &host(100, 2, Some(6)), &promised), None);
        assert_eq!(refusal(2 * GIB + 1, &[], &no, &host(100, 2, Some(6)), &promised), Some(Refusal::TooLittle));
        // A machine that uses more than it was promised gives nobody anything.
        let greedy = [Promise { memory: GIB, used: 9 * GIB }];
        assert_eq!(host(10, 2, None).left(&greedy), Some(8 * GIB));
        // A host that tells nothing, without a limit, refuses nothing.
        assert_eq!(refusal(u64::MAX, &[], &no, &HostMemory::default(), &promised), None);
    }

    #[test]
    fn who_came_first_goes_first_and_a_small_one_passes_a_big_one_only_for_a_while() {
        let promised = [Promise { memory: 4 * GIB, used: 4 * GIB }];
        let no = BTreeSet::new();
        let here = host(5, 1, None);
        let ask =
            |older: &[MemoryWaiter], ignored: &BTreeSet<String>| refusal(2 * GIB, older, ignored, &here, &promised);
        assert_eq!(ask(&[waiter("a", 1, 0)], &no), Some(Refusal::TurnOf("a".into())), "it has room, and came first");
        assert_eq!(ask(&[waiter("a", 6, 59)], &no), None, "a big one has no room yet");
        assert_eq!(ask(&[waiter("a", 6, 60)], &no), Some(Refusal::TurnOf("a".into())), "it has waited long enough");
        assert_eq!(ask(&[waiter("a", 9, 600)], &no), None, "what this host never has holds nobody up");
        assert_eq!(ask(&[waiter("a", 1, 0)], &BTreeSet::from(["a".to_owned()])), None, "it did not go");
    }

    /// A job of the simulation: what it needs, and how many steps it has it.
    fn jobs() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((1..=8_u64, 1..=20_u64), 1..40)
    }

    proptest! {
        /// Whatever comes: never more than the limit is promised, and everybody is served, also the biggest, within the bound.
        #[test]
        fn nothing_is_overcommitted_and_nobody_starves(jobs in jobs(), limit in 8..=16_u64) {
            let here = HostMemory { limit: Some(limit), ..HostMemory::default() };
            let step = Duration::from_secs(5);
            let mut waiting: Vec<MemoryWaiter> = Vec::new();
            let mut running: Vec<(u64, u64)> = Vec::new();
            let mut coming = jobs.iter().enumerate();
            let (mut served, mut steps) = (0, 0_u64);
            let lengths: Vec<u64> = jobs.iter().map(|job| job.1).collect();
            while served < jobs.len() || !running.is_empty() {
                steps += 1;
                prop_assert!(steps < 10_000, "somebody starves: {waiting:?}");
                if let Some((index, (memory, _))) = coming.next() {
                    waiting.push(MemoryWaiter { name: format!("{index:04}"), memory: *memory, waited: Duration::ZERO });
                }
                running.retain_mut(|(_, left)| { *left -= 1; *left > 0 });
                // In any order: each asks for itself.
                for at in (0..waiting.len()).rev() {
                    let promised: Vec<Promise> =
                        running.iter().map(|(memory, _)| Promise { memory: *memory, used: 0 }).collect();
                    let ours = waiting[at].clone();
                    if refusal(ours.memory, &waiting[..at], &BTreeSet::new(), &here, &promised).is_none() {
                        // After the bound only those who came before are served before, and those who run.
                        let longest = 20 * (jobs.len() as u64 + 1);
                        prop_assert!(ours.waited <= PASSED + step * u32::try_from(longest).expect("small"));
                        waiting.remove(at);
                        let index: usize = ours.name.parse().expect("number");
                        running.push((ours.memory, lengths[index]));
                        served += 1;
                    }
                    prop_assert!(running.iter().map(|r| r.0).sum::<u64>() <= limit);
                }
                for waiter in &mut waiting {
                    waiter.waited += step;
                }
            }
        }
    }
}
