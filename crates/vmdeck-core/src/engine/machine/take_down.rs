//! Ends a lease: takes the machine down and proves it, or keeps it on a person's wish.

use super::{LeasedMachine, controller::Controller, diagnostics, fingerprint::fingerprint, intent::Intent, shutdown};
use crate::{
    backend::{self, contract::Machine, proof::Proof, record::KeptMachine},
    context::CallContext,
    engine::{context::RunContext, journal::Record, phase_events::PhaseEvents},
    host::{clock, tail},
    transport::session::Session,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{EventKind, Phase},
    guest::Guest,
};

/// How long asking for the size of its disk may take: the figure is worth no more.
const MEASURE: Duration = Duration::from_secs(5);
/// How long taking a machine down may take, on a clock of its own: never on a cancelled one.
const CLEANUP: Duration = Duration::from_mins(1);

/// How a machine was dealt with at the end, for the event.
#[derive(Default)]
struct CleanUp {
    proofs: Vec<String>,
    left: Vec<String>,
    kept: bool,
    adopted: bool,
    freed: Option<u64>,
}

impl CleanUp {
    fn send(self, context: &RunContext, guest: &Guest) {
        let Self { proofs, left, kept, adopted, freed } = self;
        context.events.send(EventKind::CleanupEnded { guest: guest.id.clone(), proofs, left, kept, adopted, freed });
    }
}

/// Takes a leased machine down, whether it still runs or has ended by itself.
pub(in crate::engine) async fn take_down(context: &RunContext, guest: &Guest, mut machine: LeasedMachine) {
    if !machine.is_frozen() {
        shutdown::shut_down(context, guest, &machine).await;
    }
    end(context, guest, &mut machine.controller, &machine.name).await;
    if let Some(memory) = machine.memory() {
        memory.note_end().await;
    }
}

/// Takes down what a controller holds, proves it, and reports what is left. A second attempt is made where the first one fails.
pub(super) async fn end(context: &RunContext, guest: &Guest, controller: &mut Controller, name: &str) {
    let id = &guest.id;
    context.controls.reach_kernel(id, None);
    context.events.send(EventKind::CleanupBegan { guest: id.clone() });
    let phase = PhaseEvents::begin(&context.events, id, Phase::Cleanup, None);
    let adopted = controller.machine().is_some_and(Machine::is_adopted);
    let freed = match controller.machine() {
        Some(machine) if !adopted => clock::within(MEASURE, machine.disk_used()).await.and_then(Result::ok).flatten(),
        _ => None,
    };
    let work = async {
        match controller.terminate("the run is done with it").await {
            Err(_) => controller.terminate("tried again").await,
            done => done,
        }
    };
    let result = clock::within(CLEANUP, work).await.unwrap_or_else(|| Err(too_long(name)));
    for fault in controller.swallowed() {
        context.events.warn(Some(id), fault.to_string(), None);
    }
    let ok = result.is_ok();
    let left = match result {
        Ok(()) => {
            let proof = controller.proofs().join("; ");
            if let Err(fault) = context.journal.append(&Record::Gone { name: name.to_owned(), proof }) {
                context.events.warn(Some(id), fault.to_string(), fault.remedy().map(str::to_owned));
            }
            diagnostics::add_end(context, guest, controller);
            // Nobody writes to it any more. With a hole it is only harder to read.
            let _ = tail::close_gap(&context.guest_dir(guest).join("console.log"), context.plan.host.log_size);
            Vec::new()
        }
        Err(fault) => vec![format!("{name}: {fault}")],
    };
    phase.end(ok);
    let (proofs, freed) = (controller.proofs().to_vec(), freed.filter(|_| ok));
    CleanUp { proofs, left, adopted, freed, ..CleanUp::default() }.send(context, guest);
}

/// Removes what a creation that failed may have made: half a machine is found the way a reaper finds it.
pub(super) async fn discard_uncreated(context: &RunContext, guest: &Guest, intent: Intent) {
    let record = intent.record(guest);
    let name = record.name.clone();
    let never = CancellationToken::new();
    let call = CallContext::new(CLEANUP, &never);
    let proof = match backend::find(&guest.backend) {
        Ok(row) => {
            let backend = (row.build)(&context.backend);
            clock::within(CLEANUP, backend.reap(&record, call)).await.unwrap_or_else(|| Proof::Unknown(too_long(&name)))
        }
        Err(fault) => Proof::Unknown(fault),
    };
    match proof.into_result() {
        Ok(proof) => drop(context.journal.append(&Record::Gone { name, proof })),
        Err(fault) => {
            CleanUp { left: vec![format!("{name}: {fault}")], ..CleanUp::default() }.send(context, guest);
        }
    }
}

fn too_long(name: &str) -> Fault {
    Fault::new(Blame::Leftover, format!("cannot take `{name}` down")).because("it took longer than 60 s")
}

/// Leaves a machine in place on a person's wish.
pub(in crate::engine) async fn keep(context: &RunContext, guest: &Guest, mut leased: LeasedMachine) {
    context.controls.reach_kernel(&guest.id, None);
    if let Some(memory) = leased.memory() {
        memory.leave(context.journal.path()).await;
    }
    let uses = leased.kept().map_or(1, |kept| kept.uses);
    let name = leased.name;
    let mut adopted = false;
    let mut shown = name.clone();
    let address = leased.controller.session().and_then(Session::peer);
    if let Some(machine) = leased.controller.detach() {
        adopted = machine.is_adopted();
        machine.provider_name().clone_into(&mut shown);
        let host_key = leased.controller.host_key();
        let kept = Some(KeptMachine { fingerprint: fingerprint(guest), uses });
        if let Err(fault) = context.journal.append(&Record::Kept { name, address, host_key, kept }) {
            context.events.warn(Some(&guest.id), fault.to_string(), None);
        }
        machine.detach();
    }
    if guest.id != guest.key {
        let text = format!("guest `{}`: the private network of its suite, if it had one, ends with this run", guest.id);
        context.events.warn(Some(&guest.id), text, None);
    }
    let id = &guest.id;
    // Of one that was kept before, that is no news.
    if uses > 1 {
        return CleanUp { kept: true, adopted, ..CleanUp::default() }.send(context, guest);
    }
    let end = if adopted { "puts it back" } else { "removes it" };
    let hint = format!(
        "`vmdeck shell {id}` opens a shell, `vmdeck --ci --reuse` runs tests in it again; `vmdeck down {id}` {end}"
    );
    context.events.warn(Some(id), format!("guest `{id}` was kept as `{shown}`"), Some(hint));
    CleanUp { kept: true, adopted, ..CleanUp::default() }.send(context, guest);
}
