//! What the setup of a suite depends on, so that a machine in which it was run can be frozen and used again.

use crate::{
    engine::{context::RunContext, machine::SetupKey},
    transport::source,
};
use vmdeck_model::{
    digest::hex,
    error::{Fault, Result},
    guest::Guest,
    snapshot::SnapshotPoint,
    suite::{CoverageKind, Suite},
};

/// Returns the key of a suite's setup in a guest, as the code was when the run first looked; `None` as with `now`.
pub(super) async fn of(context: &RunContext, guest: &Guest, suite: &Suite) -> Result<Option<SetupKey>> {
    if let Some(known) = context.snapshots.setup(&guest.id, &suite.id) {
        return Ok(Some(known));
    }
    let key = now(context, guest, suite).await?;
    if let Some(key) = &key {
        context.snapshots.set_setup(&guest.id, key);
    }
    Ok(key)
}

/// Returns the key of a suite's setup in a guest, as the code is now; `None` = no machine is frozen after it: there is nothing that would be run or brought in,
/// or it must not be kept.
pub(super) async fn now(context: &RunContext, guest: &Guest, suite: &Suite) -> Result<Option<SetupKey>> {
    let does_nothing = guest.source.is_none() && suite.setup.is_none() && suite.requires.is_empty();
    if guest.snapshot_point() != SnapshotPoint::AfterSetup || does_nothing || suite.coverage != CoverageKind::Off {
        return Ok(None);
    }
    let Suite { setup, env, dir, run_as, shell, requires, .. } = suite;
    let shell = shell.as_ref().unwrap_or(&guest.shell);
    let what = format!("{setup:?} {env:?} {dir:?} {run_as:?} {shell:?} {requires:?}");
    if context.redactor.text(&what) != what {
        // A secret would stand in the memory that is written to the disk.
        return Ok(None);
    }
    let mut code = String::new();
    if let Some(source) = guest.source.clone() {
        let to = source.to.clone();
        let reading = tokio::task::spawn_blocking(move || source::hash_of_contents(&source, &["**".to_owned()])).await;
        code = hex(&reading.map_err(|e| Fault::bug("reading the code panicked").because(e))??) + &to;
    }
    Ok(Some(SetupKey::of(&suite.id, &[&what, &code])))
}
