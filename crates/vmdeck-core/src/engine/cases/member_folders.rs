//! The folders of the cases of a suite in each machine of a job.

use super::{case_folders::SuiteFolders, members::Member, suite::SuiteRun};
use crate::{
    engine::{context::RunContext, machine::LeasedMachine},
    host::clock,
};
use futures_util::future::join_all;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use vmdeck_model::suite::{Case, Suite};

/// How long it may take where nobody waits for it any more.
const LAST: Duration = Duration::from_secs(5);

/// Makes those of these cases, each in the machines that take it, besides those that there are. A case that finds no place for them is run without, and one that names them says so then.
pub(super) async fn add(
    context: &RunContext,
    suite: &Suite,
    members: &mut [Member],
    machines: &[LeasedMachine],
    cases: &[&Case],
) {
    let makes = members.iter_mut().zip(machines).map(|(member, machine)| async move {
        let mut folders = member.folders.take().unwrap_or_else(|| SuiteFolders::new(machine));
        let run = SuiteRun { context, guest: &member.guest, told: &member.told, suite };
        let own = cases.iter().copied().filter(|case| member.takes(case));
        let _ = folders.make(&run, machine, own).await;
        member.folders = Some(folders);
    });
    join_all(makes).await;
}

/// Fetches what is still there, each case's to its place in the record, and removes everything. Returns what did not come.
pub(super) async fn finish(
    run: &SuiteRun<'_>,
    member: &Member,
    machine: &LeasedMachine,
    places: &BTreeMap<String, PathBuf>,
) -> Option<String> {
    let finished = member.folders.as_ref()?.finish(run, machine, places).await;
    let missing = finished.unwrap_or_else(|fault| Some(fault.to_string()));
    if let Some(missing) = &missing {
        run.warn(missing);
    }
    missing
}

/// Does the same where the suite does not come to its end, as far as that takes no long time.
pub(super) async fn rescue(
    run: &SuiteRun<'_>,
    member: &Member,
    machine: &LeasedMachine,
    places: &BTreeMap<String, PathBuf>,
) {
    if machine.is_gone() {
        if member.folders.as_ref().is_some_and(SuiteFolders::has_any) {
            run.warn("what cases that passed may have left in VMDECK_ARTIFACTS is lost with the machine");
        }
        return;
    }
    if clock::within(LAST, finish(run, member, machine, places)).await.is_none() {
        run.warn("the artifacts of cases that passed did not come: the guest does not answer");
    }
}
