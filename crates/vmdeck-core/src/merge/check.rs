//! Which records may be one: parts of the same plan, of the same code, each part once.

use super::{options::MergeOptions, source::SourceRecord};
use std::collections::{BTreeMap, BTreeSet};
use vmdeck_model::{
    error::{Fault, Result},
    ids::short_run,
};

/// What is done about a refusal that may be a mistake.
const FORCE: &str = "leave one out; --force merges them all the same";

/// Puts the records in order, names them, and refuses those that do not belong together.
pub(super) fn check(sources: &mut [SourceRecord], options: &MergeOptions) -> Result<()> {
    // By what is in them, so that the order in which they are given changes nothing.
    sources.sort_by(|a, b| {
        let index =
            |source: &SourceRecord| source.part.shard.as_ref().map_or(usize::MAX, |planned| planned.shard.index);
        (index(a), a.began_ms, &a.sha256).cmp(&(index(b), b.began_ms, &b.sha256))
    });
    no_record_twice(sources)?;
    same_version(sources)?;
    if !options.force {
        same_plan(sources)?;
    }
    supersede(sources, options)?;
    name(sources);
    no_case_twice(sources)
}

fn refused(a: &SourceRecord, b: &SourceRecord, why: &str) -> Fault {
    Fault::user(format!("cannot merge {} with {}", a.shown(), b.shown())).because(why)
}

fn no_record_twice(sources: &[SourceRecord]) -> Result<()> {
    let mut seen: BTreeMap<String, &SourceRecord> = BTreeMap::new();
    for source in sources {
        let inner = source.origins.iter().map(|origin| origin.run.clone());
        for run in inner.chain([source.run.to_string()]) {
            if let Some(other) = seen.insert(run.clone(), source) {
                let why = format!("both are of run {}", short_run(&run));
                return Err(refused(other, source, &why).hint("give each record once"));
            }
        }
    }
    Ok(())
}

fn same_version(sources: &[SourceRecord]) -> Result<()> {
    let major = |source: &SourceRecord| source.version.split('.').next().unwrap_or_default().to_owned();
    let other = sources.windows(2).find(|pair| major(&pair[0]) != major(&pair[1]));
    let Some([one, other]) = other else { return Ok(()) };
    let why = format!("they were written by vmdeck {} and {}", one.version, other.version);
    Err(refused(one, other, &why).hint("run every part with the same version"))
}

/// Refuses what is of another run, another plan or another revision.
fn same_plan(sources: &[SourceRecord]) -> Result<()> {
    let Some((first, rest)) = sources.split_first() else { return Ok(()) };
    for other in rest {
        if let Some(why) = difference(first, other) {
            return Err(refused(first, other, &why).hint(FORCE));
        }
    }
    Ok(())
}

/// Returns in what two records differ that parts of one run have in common.
fn difference(a: &SourceRecord, b: &SourceRecord) -> Option<String> {
    let none = || "none".to_owned();
    let text = |value: &Option<String>| value.clone().unwrap_or_else(none);
    if a.part.group != b.part.group {
        return Some(format!("they are of different runs of CI: {} and {}", text(&a.part.group), text(&b.part.group)));
    }
    if let (Some(one), Some(other)) = (&a.view.revision, &b.view.revision)
        && one != other
    {
        return Some(format!("they test different revisions of the code: {one} and {other}"));
    }
    // A record of an older vmdeck has no digest.
    let is_other = a.part.plan.as_ref().zip(b.part.plan.as_ref()).is_some_and(|(one, other)| one != other);
    let (own, others) = (a.whole_set(), b.whole_set());
    if is_other || own != others {
        let lacking = own.symmetric_difference(&others).next();
        let what = lacking.map_or_else(
            || "the config of their guests and suites differs".to_owned(),
            |(guest, suite, case)| format!("`{suite}/{case}@{guest}` is planned in one of them only"),
        );
        return Some(format!("they are not parts of one plan: {what}"));
    }
    let (one, other) = (a.part.shard.as_ref()?, b.part.shard.as_ref()?);
    if one.shard.count != other.shard.count {
        return Some(format!("one is of {} shards, the other of {}", one.shard.count, other.shard.count));
    }
    let is_same = one.by == other.by && one.times == other.times;
    (!is_same).then(|| "they were divided by different times: give every shard the same file".to_owned())
}

impl SourceRecord {
    fn whole_set(&self) -> BTreeSet<super::source::CaseName> {
        self.whole().into_iter().collect()
    }
}

/// Marks each record of which there is a later attempt.
fn supersede(sources: &mut [SourceRecord], options: &MergeOptions) -> Result<()> {
    for later in 1..sources.len() {
        let (before, rest) = sources.split_at_mut(later);
        let (earlier, later) = (&mut before[later - 1], &rest[0]);
        let (Some(one), Some(other)) = (&earlier.part.shard, &later.part.shard) else { continue };
        if one.shard != other.shard {
            continue;
        }
        let is_rerun = match (earlier.part.attempt, later.part.attempt) {
            (Some(one), Some(other)) => one != other && earlier.part.group.is_some(),
            _ => false,
        };
        if !is_rerun && !options.force {
            let why = format!("shard {} is there twice", one.shard);
            return Err(refused(earlier, later, &why).hint("leave one out; --force takes the later one"));
        }
        earlier.superseded = true;
    }
    Ok(())
}

/// Gives each record the name by which its events are known.
fn name(sources: &mut [SourceRecord]) {
    let mut attempts: BTreeMap<usize, usize> = BTreeMap::new();
    for source in sources.iter_mut() {
        source.origin = match source.part.shard.as_ref().map(|planned| planned.shard.index) {
            Some(index) if source.superseded => {
                let attempt = attempts.entry(index).or_default();
                *attempt += 1;
                format!("{index}-{attempt}")
            }
            Some(index) => index.to_string(),
            None => source.run.short().to_owned(),
        };
    }
}

fn no_case_twice(sources: &[SourceRecord]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.superseded) {
        for (guest, suite, case) in source.claims() {
            let name = format!("{suite}/{case}@{guest}");
            if let Some(other) = seen.insert(name.clone(), source) {
                let why = format!("`{name}` is in both");
                return Err(
                    refused(other, source, &why).hint("a case has one verdict: give records of different cases")
                );
            }
        }
    }
    Ok(())
}
