//! Brings the code that is tested into a machine.

use crate::{
    engine::{
        context::RunContext,
        machine::{LeasedMachine, PhaseEvents},
    },
    transport::source,
};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use vmdeck_model::{
    error::{Fault, Result},
    event::{EventKind, Phase},
    guest::{Guest, Source},
};

/// Sends the guest's source, if it has one; to a machine that lives on, only what has changed.
pub(super) async fn bring(context: &RunContext, guest: &Guest, machine: &LeasedMachine) -> Result<()> {
    let Some(source) = &guest.source else { return Ok(()) };
    let session = machine.controller.session();
    let session = session.ok_or_else(|| Fault::infra("cannot send the code").because("there is no session"))?;
    let kept = kept_source(context, guest, machine, source);
    let sending = source::send(session, source, kept.as_deref(), &context.cancel);
    let phase = PhaseEvents::begin(&context.events, &guest.id, Phase::Source, None);
    let sent = phase.around(sending).await?;
    for note in sent.notes {
        context.events.warn(Some(&guest.id), note, None);
    }
    if let Some((changed, all)) = sent.changed {
        let text = format!("guest `{}`: {changed} of {all} files had changed, and were sent", guest.id);
        context.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
    }
    Ok(())
}

/// Returns where what a machine has of the code is kept in mind; only one of others lives on from run to run.
fn kept_source(context: &RunContext, guest: &Guest, machine: &LeasedMachine, source: &Source) -> Option<PathBuf> {
    let machine = machine.controller.machine().filter(|machine| machine.is_adopted())?;
    let from = source.path.display().to_string();
    let what = [&guest.backend, machine.provider_name(), &source.to, &from].join("\0");
    let hash: String = Sha256::digest(what).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Some(context.backend.state.join("sources").join(format!("{hash}.json")))
}
