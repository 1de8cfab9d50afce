//! Freezes a machine that is up: a program begins to wait in the guest, its connections end, its backend writes it out, the store makes it known.

use super::{SetupKey, SnapshotPlan, renew, start::progress};
use crate::{
    assets::snapshot::{SnapshotDraft, SnapshotFacts},
    engine::{context::RunContext, machine::LeasedMachine, phase_events::PhaseEvents},
    host::clock,
};
use vmdeck_model::{
    error::{Fault, Result},
    event::Phase,
    guest::Guest,
    quantity::{show_duration, show_size},
    snapshot::SnapshotPoint,
};

/// Freezes a machine that has just booted; returns whether it stands still now, and is to be ended: the next one goes on from its snapshot,
/// or boots where that could not be made known. Where it could not be written it is up again, and machines of this guest boot.
pub(in crate::engine::machine) async fn freeze_booted(
    context: &RunContext,
    guest: &Guest,
    machine: &mut LeasedMachine,
    plan: &SnapshotPlan<'_>,
) -> Result<bool> {
    let mut facts = SnapshotFacts::new(guest.told_as().as_str(), &guest.backend, &context.plan.folder, clock::utc());
    facts.host_key = machine.controller.host_key();
    freeze(context, guest, machine, &plan.booted, facts).await
}

/// Freezes a machine in which the setup of a suite has just been run, where it is one that can be; returns as `freeze_booted` does.
pub(in crate::engine) async fn freeze_set_up(
    context: &RunContext,
    guest: &Guest,
    machine: &mut LeasedMachine,
    setup: &SetupKey,
) -> Result<bool> {
    let is_possible = machine.controller.machine().is_some_and(|machine| machine.freezer().is_some());
    let Some((parent, before)) = machine.origin().filter(|_| is_possible) else { return Ok(false) };
    let mut facts = before.clone();
    facts.parent = Some(parent.to_owned());
    facts.point = SnapshotPoint::AfterSetup;
    facts.suite = Some(setup.suite.to_string());
    facts.created = clock::utc();
    let key = setup.on(parent);
    freeze(context, guest, machine, &key, facts).await
}

async fn freeze(
    context: &RunContext,
    guest: &Guest,
    machine: &mut LeasedMachine,
    key: &str,
    facts: SnapshotFacts,
) -> Result<bool> {
    let phase = PhaseEvents::begin(&context.events, &guest.id, Phase::Freeze, None);
    let begun = clock::now();
    let cannot = |fault: &Fault| {
        context.snapshots.give_up(guest.told_as());
        let text = format!("guest `{}` could not be frozen, and each of its machines boots: {fault}", guest.id);
        context.events.warn(Some(&guest.id), text, fault.remedy().map(str::to_owned));
    };
    let (draft, facts) = match write(context, machine, key, facts).await {
        Ok(both) => both,
        Err(fault) => {
            phase.end(false);
            cannot(&fault);
            machine.controller.resume(&context.cancel).await?;
            return Ok(false);
        }
    };
    // It stands still from here on, whatever becomes of the snapshot.
    machine.set_frozen();
    let committed = commit(context, draft, facts).await;
    phase.end(committed.is_ok());
    match committed {
        Ok(size) => {
            context.snapshots.set_made(key);
            let took = show_duration(begun.elapsed());
            progress(context, guest, format!("guest `{}` was frozen in {took} ({})", guest.id, show_size(size)));
        }
        Err(fault) => cannot(&fault),
    }
    Ok(true)
}

/// Writes the machine into a draft of a snapshot. It has no session afterwards.
async fn write(
    context: &RunContext,
    machine: &mut LeasedMachine,
    key: &str,
    mut facts: SnapshotFacts,
) -> Result<(SnapshotDraft, SnapshotFacts)> {
    let draft = context.backend.snapshots.begin(key).map_err(|e| no_room(context, &e))?;
    // Open until all is written: what waits at its other end would see its end.
    let port = match machine.controller.machine() {
        Some(machine) => machine.renewal_port().await,
        None => None,
    };
    facts.renews_by_port = port.is_some() && renew::start_resident(machine.session()?).await;
    let needs_parent = machine.controller.freeze(draft.folder(), draft.place()).await?;
    facts.parent = facts.parent.filter(|_| needs_parent);
    Ok((draft, facts))
}

/// Makes a draft known as a snapshot; returns its size.
async fn commit(context: &RunContext, draft: SnapshotDraft, facts: SnapshotFacts) -> Result<u64> {
    let size = crate::host::files::disk_usage(draft.folder());
    // It reads all of it, and waits for the disk.
    let committed = tokio::task::spawn_blocking(move || draft.commit(facts)).await;
    committed.map_err(|e| Fault::bug("writing a snapshot panicked").because(e))?.map_err(|e| no_room(context, &e))?;
    Ok(size)
}

fn no_room(context: &RunContext, e: &std::io::Error) -> Fault {
    let place = context.backend.snapshots.folder().display();
    let fault = Fault::infra(format!("cannot write a snapshot into `{place}`")).because(e);
    match e.kind() {
        std::io::ErrorKind::StorageFull => fault.hint("free disk space, or set `snapshots.cache` to another folder"),
        _ => fault,
    }
}
