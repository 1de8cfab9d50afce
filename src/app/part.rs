//! The part of a run that `--shard` asks for, and what its record says of the whole.

use super::Io;
use crate::cli::{RunArgs, ShardByArg};
use std::path::Path;
use vmdeck_core::merge::{self, times_file};
use vmdeck_model::{
    division,
    guest::Guest,
    job::Job,
    plan::Setup,
    shard::{PlannedShard, RunPart, ShardBy, name_in_plan},
    suite::{Case, FlakyPolicy, Suite},
    times::CaseTimes,
};

/// The variables by which a CI tells which jobs belong to one run, and which attempt this one is; the first that is set counts.
const CI: [(&str, &str); 6] = [
    ("GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT"),
    // A job that is run again has another id, and a higher one.
    ("CI_PIPELINE_ID", "CI_JOB_ID"),
    ("BUILDKITE_BUILD_ID", "BUILDKITE_RETRY_COUNT"),
    ("CIRCLE_WORKFLOW_ID", "CIRCLE_BUILD_NUM"),
    ("BUILD_BUILDID", "SYSTEM_JOBATTEMPT"),
    ("BUILD_TAG", ""),
];
/// The name of the file of times that is beside the config.
pub(super) const TIMES: &str = "vmdeck-times.json";

/// Leaves of what was selected what `--shard` asks for; returns what the record says of the whole.
pub(super) fn take(jobs: &mut Vec<Job>, setup: &Setup, args: &RunArgs, io: &mut Io<'_>) -> RunPart {
    let cases = || jobs.iter().flat_map(Job::cases);
    let name = |(guest, suite, case): (&Guest, &Suite, &Case)| name_in_plan(&guest.id, &suite.id, &case.id);
    let all: Vec<String> = cases().map(name).collect();
    let repeat = args.repeat.max(1);
    let excused = setup.quarantine.0.iter().map(|test| format!("{} {:?} {}\n", test.name, test.subtest, test.until));
    let plan = Some(merge::plan_digest(&all, repeat, &format!("{}\n{}", setup.digest, excused.collect::<String>())));
    let (group, attempt) = ci_run();
    let group = args.group.clone().or(group);
    let repeat_told = (repeat > 1).then_some(repeat);
    let flaky_fails = cases().filter(|(.., case)| case.flaky == FlakyPolicy::Fail).map(name).collect();
    let whole = RunPart { plan, flaky_fails, group, attempt, repeat: repeat_told, ..RunPart::default() };
    let Some(part) = args.shard else { return whole };
    let times = match &args.shard_by {
        Some(ShardByArg::Time(file)) => {
            let usual = || setup.folder.join(TIMES);
            load(&file.clone().unwrap_or_else(usual), io)
        }
        Some(ShardByArg::Count) | None => None,
    };
    let (times, digest) = times.unzip();
    let division = division::divide(std::mem::take(jobs), part, times.as_ref(), repeat);
    if let Some(told) = division::told_too_long(&division.too_long) {
        io.warn(&format!("note: {told}"));
    }
    *jobs = division.jobs;
    if jobs.is_empty() {
        io.warn(&format!("note: shard {part} has no case: the others have them all"));
    }
    let by = if times.is_some() { ShardBy::Time } else { ShardBy::Count };
    RunPart { shard: Some(PlannedShard { shard: part, by, times: digest }), planned_all: all, ..whole }
}

/// Reads a file of times; what cannot be read is told, and the cases are counted. Then the digest in the record differs from that of a
/// shard that could read it, and `vmdeck merge` says so.
fn load(file: &Path, io: &mut Io<'_>) -> Option<(CaseTimes, String)> {
    match times_file::read(file) {
        Ok(read) => Some(read),
        Err(why) => {
            let name = file.display();
            io.warn(&format!("warning: cannot use the times in `{name}`: {why}; cases are divided by count\n\nhint: `vmdeck times RUN... -o {name}` makes it from records of earlier runs\n"));
            None
        }
    }
}

/// Returns what CI says of the run that this one is a part of, and of its attempt.
fn ci_run() -> (Option<String>, Option<u64>) {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let known =
        CI.iter().find_map(|(group, attempt)| Some((set(group)?, set(attempt).and_then(|text| text.parse().ok()))));
    known.map_or((None, None), |(group, attempt)| (Some(group), attempt))
}
