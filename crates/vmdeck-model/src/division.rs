//! Which part of a run that is divided between several hosts has which cases.
//!
//! Every part divides alone, and all come to the same: a case is in exactly one of them. `vmdeck merge` adds their records up.

use super::{
    guest::{Fresh, Guest},
    ids::CaseId,
    job::Job,
    quantity::show_duration,
    select::word_of_case,
    shard::Shard,
    suite::Suite,
    times::{self, CaseTimes},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What one shard gets, and what a person should know of how that was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Division {
    /// What is run.
    pub jobs: Vec<Job>,
    /// Cases that alone take longer than an equal part, each with how long, in milliseconds.
    pub too_long: Vec<(String, u64)>,
}

/// Cases that no division parts.
struct Unit {
    /// The place of its job.
    job: usize,
    /// The place of its suite in the job.
    suite: usize,
    cases: BTreeSet<CaseId>,
    /// The SELECT word of its first case, and whether there are more: what tells it from others, and what people are told.
    name: String,
    /// How long its cases take, in milliseconds.
    cost: u64,
    /// The machines that it needs, each with how long it boots; one that another unit of the shard has booted already costs nothing.
    boots: Vec<(String, u64)>,
}

/// Returns what a shard has of these jobs: by count every n-th unit, by time the longest first to the shard that has least to do.
///
/// What needs another goes with it, and a case that goes on beside others with those. A suite with roles, or whose artifacts must come,
/// is never parted, and by time no suite with a setup, unless its cases alone take longer than an equal part.
pub fn divide(jobs: Vec<Job>, shard: Shard, times: Option<&CaseTimes>, repeat: u32) -> Division {
    let all = |limit: u64| -> Vec<Unit> {
        jobs.iter().enumerate().flat_map(|(at, job)| units(at, job, (times, repeat), limit)).collect()
    };
    let total = all(u64::MAX).iter().fold(0_u64, |sum, unit| sum.saturating_add(unit.cost));
    let units = all(total / shard.count as u64);
    let (owners, too_long) = match times {
        None => ((0..units.len()).map(|at| at % shard.count).collect(), Vec::new()),
        Some(_) => by_time(&units, shard.count),
    };
    let mine = units.iter().zip(owners).filter(|(_, owner)| *owner == shard.index - 1);
    let mut wanted: BTreeMap<(usize, usize), BTreeSet<&CaseId>> = BTreeMap::new();
    for (unit, _) in mine {
        wanted.entry((unit.job, unit.suite)).or_default().extend(&unit.cases);
    }
    let jobs = jobs.into_iter().enumerate().filter_map(|(at, mut job)| {
        let suites = job.suites.into_iter().enumerate().filter_map(|(number, suite)| {
            let own = wanted.get(&(at, number))?;
            let cases = suite.cases.iter().filter(|case| own.contains(&case.id)).cloned().collect();
            Some(Suite { cases, ..suite })
        });
        job.suites = suites.collect();
        (!job.suites.is_empty()).then_some(job)
    });
    Division { jobs: jobs.collect(), too_long }
}

/// Which shard each unit goes to, and what each shard takes.
struct Assignment {
    owners: Vec<usize>,
    totals: Vec<u64>,
}

/// Returns which shard each unit goes to, and the units that alone take longer than an equal part.
///
/// A machine that every shard boots may cost more than unequal shards: so it is tried how many shards may boot the same one.
fn by_time(units: &[Unit], count: usize) -> (Vec<usize>, Vec<(String, u64)>) {
    let most = std::iter::successors(Some(1), |most| Some(most * 2)).take_while(|most| *most < count).chain([count]);
    // Of equal ones the first: it boots least.
    let best = most.map(|most| assign(units, count, most)).min_by_key(|assignment| {
        (assignment.totals.iter().copied().max(), assignment.totals.iter().copied().fold(0, u64::saturating_add))
    });
    let Some(Assignment { owners, totals }) = best else { return (vec![0; units.len()], Vec::new()) };
    let share = totals.into_iter().fold(0, u64::saturating_add) / count as u64;
    let alone = |unit: &Unit| unit.boots.iter().fold(unit.cost, |sum, (_, ms)| sum.saturating_add(*ms));
    let too_long = units.iter().filter(|unit| count > 1 && alone(unit) > share);
    let mut too_long: Vec<(String, u64)> = too_long.map(|unit| (unit.name.clone(), alone(unit))).collect();
    too_long.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    (owners, too_long)
}

/// Gives the longest unit first to the shard that then has least to do, where `most` shards may boot the same machine.
fn assign(units: &[Unit], count: usize, most: usize) -> Assignment {
    let mut longest_first: Vec<usize> = (0..units.len()).collect();
    longest_first.sort_by(|a, b| {
        let (a, b) = (&units[*a], &units[*b]);
        b.cost.cmp(&a.cost).then_with(|| a.name.cmp(&b.name))
    });
    let mut booted: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); count];
    let mut shards_of: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut owners, mut totals) = (vec![0; units.len()], vec![0_u64; count]);
    for at in longest_first {
        let unit = &units[at];
        let new = |shard: usize| {
            unit.boots.iter().filter(|(machine, _)| !booted[shard].contains(machine.as_str())).collect::<Vec<_>>()
        };
        let with = |shard: usize| {
            new(shard).iter().fold(totals[shard].saturating_add(unit.cost), |sum, (_, ms)| sum.saturating_add(*ms))
        };
        let may = |shard: usize| {
            new(shard).iter().all(|(machine, _)| shards_of.get(machine.as_str()).is_none_or(|shards| *shards < most))
        };
        let Some(best) = (0..count).min_by_key(|shard| (!may(*shard), with(*shard), *shard)) else { continue };
        (owners[at], totals[best]) = (best, with(best));
        for (machine, _) in new(best) {
            *shards_of.entry(machine).or_default() += 1;
        }
        booted[best].extend(unit.boots.iter().map(|(machine, _)| machine.as_str()));
    }
    Assignment { owners, totals }
}

/// Returns the units of a job, in the order of their first cases.
/// What takes longer than `limit`, in milliseconds, is not kept together for its setup alone.
fn units(at: usize, job: &Job, (times, repeat): (Option<&CaseTimes>, u32), limit: u64) -> Vec<Unit> {
    let has_roles = job.members().iter().any(|member| member.role.is_some());
    let mut out = Vec::new();
    for (number, suite) in job.suites.iter().enumerate() {
        let make = |cases: BTreeSet<CaseId>| {
            let mut unit = Unit { job: at, suite: number, cases, name: String::new(), cost: 0, boots: Vec::new() };
            weigh(&mut unit, job, suite, times, repeat);
            unit
        };
        let whole = make(suite.cases.iter().map(|case| case.id.clone()).collect());
        let shares_setup = times.is_some() && suite.setup.is_some() && whole.cost <= limit;
        if has_roles || suite.artifacts_required || shares_setup {
            out.push(whole);
        } else {
            out.extend(groups(suite).into_iter().map(make));
        }
    }
    out
}

/// Returns the cases of a suite in groups that belong together, in the order of their first cases.
fn groups(suite: &Suite) -> Vec<BTreeSet<CaseId>> {
    let mut group_of: Vec<usize> = (0..suite.cases.len()).collect();
    let join = |group_of: &mut Vec<usize>, a: usize, b: usize| {
        let (low, high) = (group_of[a].min(group_of[b]), group_of[a].max(group_of[b]));
        group_of.iter_mut().filter(|group| **group == high).for_each(|group| *group = low);
    };
    for (at, case) in suite.cases.iter().enumerate() {
        for needed in suite.cases.iter().enumerate().filter(|(_, other)| case.needs.contains(&other.id)) {
            join(&mut group_of, at, needed.0);
        }
    }
    if let Some(first) = suite.cases.iter().position(|case| case.background.is_some()) {
        (first..suite.cases.len()).for_each(|behind| join(&mut group_of, first, behind));
    }
    let mut groups: BTreeMap<usize, BTreeSet<CaseId>> = BTreeMap::new();
    for (case, group) in suite.cases.iter().zip(group_of) {
        groups.entry(group).or_default().insert(case.id.clone());
    }
    groups.into_values().collect()
}

/// Sets the name of a unit, how long its cases take, and what it boots.
fn weigh(unit: &mut Unit, job: &Job, suite: &Suite, times: Option<&CaseTimes>, repeat: u32) {
    let cases: Vec<_> =
        job.cases().filter(|(_, of, case)| of.id == suite.id && unit.cases.contains(&case.id)).collect();
    if let Some((guest, suite, case)) = cases.first() {
        unit.name = format!("`{}`", word_of_case(&suite.id, &case.id, &guest.id));
        if cases.len() > 1 {
            unit.name.push_str(" and what belongs to it");
        }
    }
    let Some(times) = times else { return };
    let repeat = u64::from(repeat.max(1));
    for (guest, suite, case) in cases {
        if case.skip.is_some() {
            continue;
        }
        let own_machine = guest.fresh == Fresh::Case || case.fresh;
        let boot = times.boot_ms(&key_of(guest));
        let boot_each = if own_machine { boot } else { 0 };
        let once = times.case_ms(&key_of(guest), &suite.id, &case.id).saturating_add(boot_each);
        unit.cost = unit.cost.saturating_add(once.saturating_mul(repeat));
        if !own_machine {
            let machine = match guest.fresh {
                Fresh::Suite => format!("{}/{}", guest.id, suite.id),
                _ => guest.id.to_string(),
            };
            if !unit.boots.iter().any(|(known, _)| *known == machine) {
                unit.boots.push((machine, boot));
            }
        }
    }
}

/// Returns the name by which the times of a guest are kept: `debian/qemu`.
fn key_of(guest: &Guest) -> String {
    times::guest_key(guest.id.as_str(), &guest.backend)
}

/// Returns what is told of cases that alone take longer than an equal part; `None` = there are none.
pub fn told_too_long(too_long: &[(String, u64)]) -> Option<String> {
    let (name, ms) = too_long.first()?;
    Some(format!(
        "{name} alone takes about {}, longer than an equal part: more shards do not help",
        show_duration(Duration::from_millis(*ms))
    ))
}
