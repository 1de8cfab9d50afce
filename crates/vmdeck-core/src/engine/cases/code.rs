//! Brings the code that is tested into a machine.

use crate::{
    engine::{context::RunContext, machine::LeasedMachine, phase_events::PhaseEvents, reap},
    transport::source::{self, Extras, KeptSource},
};
use sha2::{Digest, Sha256};
use vmdeck_model::{
    digest::hex,
    error::{Fault, Result},
    event::{EventKind, Phase},
    guest::{Guest, Source},
    plan::{Keep, RunPurpose},
};

/// Sends the guest's source, if it has one; to a machine that lives on, only what has changed.
pub(super) async fn bring(context: &RunContext, guest: &Guest, machine: &LeasedMachine) -> Result<()> {
    let Some(source) = &guest.source else { return Ok(()) };
    let session = machine.controller.session();
    let session = session.ok_or_else(|| Fault::infra("cannot send the code").because("there is no session"))?;
    let kept = kept_source(context, guest, machine, source);
    let sending = source::send(session, source, kept.as_ref(), &context.cancel);
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

/// Returns how what a machine has of the code is kept in mind, where it lives on from run to run: one of others does, and one that
/// is kept.
fn kept_source(context: &RunContext, guest: &Guest, leased: &LeasedMachine, source: &Source) -> Option<KeptSource> {
    let machine = leased.controller.machine()?;
    let from = source.path.display().to_string();
    let name = |what: &[&str]| format!("{}.json", hex(&Sha256::digest(what.join("\0"))[..16]));
    let state = &context.backend.state;
    if machine.is_adopted() {
        let file = name(&[&guest.backend, machine.provider_name(), &source.to, &from]);
        return Some(KeptSource { file: state.join("sources").join(file), extras: Extras::Refused });
    }
    let options = &context.plan.options;
    let may_stay = leased.kept().is_some() || options.keep != Keep::Never || options.purpose == RunPurpose::Keep;
    // It goes with the machine.
    let file = reap::machine_folder(state, &leased.name).join(name(&[&source.to, &from]));
    may_stay.then_some(KeptSource { file, extras: Extras::Kept })
}
