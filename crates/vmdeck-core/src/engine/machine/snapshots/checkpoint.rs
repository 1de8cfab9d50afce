//! Keeps the state of a machine in which a case has failed, for a person who goes on from there.

use super::{key, start::progress};
use crate::{
    assets::snapshot::SnapshotFacts,
    engine::{context::RunContext, machine::LeasedMachine, phase_events::PhaseEvents},
    host::{clock, files},
};
use vmdeck_model::{
    error::{Fault, Result},
    event::Phase,
    guest::Guest,
    ids::{CaseId, SuiteId},
    quantity::show_size,
    snapshot::{Checkpoint, SnapshotPoint},
};

/// The case that has failed.
pub(in crate::engine) struct FailedCase<'a> {
    pub(in crate::engine) suite: &'a SuiteId,
    pub(in crate::engine) case: &'a CaseId,
    pub(in crate::engine) round: u32,
    pub(in crate::engine) attempt: u32,
}

/// Keeps the state of a machine, where the guest wants that; one that cannot be kept is told, and changes nothing else. The last attempt at a
/// case replaces those before.
pub(in crate::engine) async fn keep_failure(
    context: &RunContext,
    guest: &Guest,
    machine: &LeasedMachine,
    failed: FailedCase<'_>,
) {
    if guest.checkpoint == Checkpoint::Never || context.cancel.is_cancelled() {
        return;
    }
    let name = format!("{}/{}", failed.suite, failed.case);
    let kept = write(context, guest, machine, &failed, &name).await;
    match kept {
        Ok(size) => {
            let run = context.plan.run.short();
            let text = format!(
                "guest `{}`: its state at the failure of `{name}` is kept ({}): `vmdeck shell {run}/{name}` goes on there",
                guest.id,
                show_size(size)
            );
            progress(context, guest, text);
        }
        Err(fault) => {
            let text = format!("guest `{}`: its state at the failure of `{name}` could not be kept: {fault}", guest.id);
            context.events.warn(Some(&guest.id), text, fault.remedy().map(str::to_owned));
        }
    }
}

async fn write(
    context: &RunContext,
    guest: &Guest,
    machine: &LeasedMachine,
    failed: &FailedCase<'_>,
    name: &str,
) -> Result<u64> {
    let store = &context.backend.snapshots;
    let cannot = |e: std::io::Error| Fault::infra("cannot write the checkpoint").because(e);
    let mut facts = SnapshotFacts::new(guest.told_as().as_str(), &guest.backend, &context.plan.folder, clock::utc());
    facts.point = SnapshotPoint::AtFailure;
    facts.parent = machine.origin().map(|(key, _)| key.to_owned());
    facts.host_key = machine.controller.host_key();
    facts.failed = Some((context.plan.run.to_string(), name.to_owned()));
    let key = key::of_checkpoint(&[context.plan.run.as_str(), guest.told_as().as_str(), name]);
    let phase = PhaseEvents::begin(&context.events, &guest.id, Phase::Freeze, None);
    let written = async {
        if failed.attempt > 1 || failed.round > 1 {
            store.remove(&key)?;
        }
        let draft = store.begin(&key).map_err(cannot)?;
        let needs_parent = machine.controller.keep_state(draft.folder(), draft.place()).await?;
        facts.parent = facts.parent.filter(|_| needs_parent);
        let size = files::disk_usage(draft.folder());
        // It reads all of it, and waits for the disk.
        let committed = tokio::task::spawn_blocking(move || draft.commit(facts)).await;
        committed.map_err(|e| Fault::bug("writing a checkpoint panicked").because(e))?.map_err(cannot)?;
        Ok(size)
    };
    phase.around(written).await
}
