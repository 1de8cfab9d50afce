//! Makes a machine for a guest: intent first, then the provider, then the boot; what fails is taken down and tried again.

use super::{
    LeasedMachine, Permits,
    connection::GuestConnection,
    controller::Controller,
    diagnostics::diagnose,
    hold::pause,
    intent::Intent,
    preparation::{controller, prepare_record},
    private_network::NetworkPlace,
    retry,
    snapshots::{MachineStart, Renewal, SetupKey, SnapshotPlan, freeze_booted},
    take_down::{discard_uncreated, end, keep},
    takeover,
};
use crate::{
    backend::{
        self, BackendInfo,
        contract::{Backend, Machine},
        request::{CreateRequest, Lifetime},
    },
    context::CallContext,
    engine::{
        admission::Reservation, context::RunContext, controls::GuestEnd, journal::Record, phase_events::PhaseEvents,
    },
    host::clock,
    transport::{pin::Pin, route},
};
use futures_util::future::BoxFuture;
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::sync::watch;
use vmdeck_model::{
    error::{Fault, Result},
    event::{EventKind, Phase},
    guest::{Fresh, Guest},
    plan::{Keep, RunPurpose},
};

/// How long asking whether a machine exists may take.
const ASK: Duration = Duration::from_secs(5);
/// How long making a machine may take, whatever its provider has to fetch first; backends have tighter limits of their own, some
/// of them set by the user.
const CREATE: Duration = Duration::from_hours(24);

/// Where a machine belongs: its place in the private network of its job, and the setup that is to be run in it.
#[derive(Clone, Copy, Default)]
pub(in crate::engine) struct LaunchFor<'a> {
    pub(in crate::engine) place: Option<&'a NetworkPlace>,
    pub(in crate::engine) setup: Option<&'a SetupKey>,
    /// The checkpoint that it goes on from; where that cannot be, there is no machine.
    pub(in crate::engine) checkpoint: Option<&'a str>,
}

/// Makes a machine and boots it, or lets it go on from a snapshot; tries again where that can help. One that will not be tried again is
/// held for inspection, if that is wanted, and its permits are given back.
pub(in crate::engine) async fn launch(
    context: &RunContext,
    guest: &Arc<Guest>,
    wanted: LaunchFor<'_>,
    permits: &Permits,
) -> Result<LeasedMachine> {
    let LaunchFor { place, setup, checkpoint } = wanted;
    if context.plan.options.reuse
        && guest.fresh == Fresh::Run
        && place.is_none()
        && let Some(machine) = takeover::take_over(context, guest).await
    {
        return Ok(machine);
    }
    permits.reserve(&context.admission, &[guest], &context.cancel).await?;
    let row = backend::find(&guest.backend)?;
    let backend = (row.build)(&context.backend);
    let backend = NamedBackend { row, backend: backend.as_ref() };
    if let Some(key) = checkpoint {
        let start = MachineStart::of_checkpoint(context, key)?;
        return launch_once(context, guest, None, permits, (true, &start), backend).await;
    }
    let snapshots = SnapshotPlan::of(context, guest, backend.backend, place, setup).await?;
    let (mut attempt, mut was_frozen) = (1, false);
    loop {
        let last = attempt >= guest.launch_retries;
        let tried = (last, was_frozen);
        let fault = match launch_from(snapshots.as_ref(), (context, guest), (place, permits), tried, backend).await {
            Launched::Up(machine) => return Ok(*machine),
            Launched::Frozen => {
                was_frozen = true;
                continue;
            }
            Launched::Distrusted => continue,
            Launched::Failed(fault) => fault,
        };
        if last || !fault.is_worth_a_retry() || context.cancel.is_cancelled() {
            return Err(fault);
        }
        attempt += 1;
        let pause = retry::pause(attempt);
        context.events.send(EventKind::Retrying {
            guest: Some(guest.id.clone()),
            what: "launch".into(),
            attempt,
            of: guest.launch_retries,
            after_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            why: fault.to_string(),
        });
        tokio::select! {
            () = clock::sleep(pause) => {}
            () = context.cancel.cancelled() => return Err(fault),
        }
    }
}

/// What came of one attempt.
enum Launched {
    /// The machine is up.
    Up(Box<LeasedMachine>),
    /// It was frozen, and is gone: the next one goes on from there.
    Frozen,
    /// It could not go on from a snapshot: the next one boots.
    Distrusted,
    Failed(Fault),
}

/// Makes one machine, from a snapshot where there is one; one that has booted is frozen.
async fn launch_from(
    snapshots: Option<&SnapshotPlan<'_>>,
    (context, guest): (&RunContext, &Arc<Guest>),
    (place, permits): (Option<&NetworkPlace>, &Permits),
    (last, was_frozen): (bool, bool),
    backend: NamedBackend<'_>,
) -> Launched {
    let start = match snapshots {
        Some(snapshots) => snapshots.start(was_frozen).await,
        None => MachineStart::Boot { freezable: false },
    };
    let is_final = last && matches!(start, MachineStart::Boot { .. });
    let launched = launch_once(context, guest, place, permits, (is_final, &start), backend).await;
    let (mut machine, snapshots) = match (launched, start, snapshots) {
        (Ok(machine), MachineStart::Boot { freezable: true }, Some(snapshots)) => (machine, snapshots),
        (Ok(machine), ..) => return Launched::Up(Box::new(machine)),
        (Err(fault), MachineStart::Restore { key, snapshot, .. }, Some(snapshots))
            if !context.cancel.is_cancelled() =>
        {
            // What is in use cannot be removed.
            drop(snapshot);
            snapshots.distrust(&key, &fault);
            return Launched::Distrusted;
        }
        (Err(fault), ..) => return Launched::Failed(fault),
    };
    let ended = match freeze_booted(context, guest, &mut machine, snapshots).await {
        Ok(false) => return Launched::Up(Box::new(machine)),
        Ok(true) => Launched::Frozen,
        Err(fault) => Launched::Failed(fault),
    };
    end(context, guest, &mut machine.controller, &machine.name).await;
    ended
}

/// A backend with its row of the table.
#[derive(Clone, Copy)]
struct NamedBackend<'a> {
    row: &'a BackendInfo,
    backend: &'a dyn Backend,
}

/// Makes a machine that begins in this way; `last` = where that fails, it is not tried again.
async fn launch_once(
    context: &RunContext,
    guest: &Arc<Guest>,
    place: Option<&NetworkPlace>,
    permits: &Permits,
    (last, start): (bool, &MachineStart),
    NamedBackend { row, backend }: NamedBackend<'_>,
) -> Result<LeasedMachine> {
    let record_dir = context.guest_dir(guest);
    prepare_record(&record_dir)?;
    let intent = Intent::write(context, guest, backend, row).await?;
    let name = intent.name.clone();
    let memory = permits.memory_of(&guest.id);
    let mut connection = GuestConnection::new(context, guest, place.cloned(), memory.clone());
    if let MachineStart::Restore { snapshot, .. } = start {
        let facts = &snapshot.facts;
        connection = connection.of_restored(Pin::of(facts.host_key.clone()), Renewal::of(facts));
    }
    let console = connection.console_watch();
    let mut controller = controller(context, guest, &name, connection);
    let kept_by = memory.as_deref().and_then(Reservation::descriptor);
    if let Err(fault) = create(context, guest, (place, kept_by), &mut controller, (backend, &intent), start).await {
        discard_uncreated(context, guest, intent).await;
        return Err(fault);
    }
    // What the provider chose itself, such as an id: from here on a reaper can be sure of it.
    let known = controller.id().map(|id| Record::Known { name: name.clone(), identity: id, console: None });
    if let Some(Err(fault)) = known.map(|known| context.journal.append(&known)) {
        end(context, guest, &mut controller, &name).await;
        return Err(fault);
    }
    let started = controller.start(&context.cancel).await;
    let exit = controller.machine().map_or_else(|| watch::channel(None).1, Machine::exit);
    let restarts = controller.machine().and_then(Machine::restarts);
    let mut machine = LeasedMachine::new(name, controller, exit, console, restarts);
    let Err(fault) = started else {
        if let Some(memory) = memory {
            machine = machine.with_memory(memory).await;
        }
        return Ok(match start {
            MachineStart::Restore { snapshot, key, .. } => machine.going_on_from(key, snapshot.facts.clone()),
            MachineStart::Boot { .. } => machine,
        });
    };
    diagnose(context, guest, &machine.controller, &fault).await;
    if last || (!fault.is_worth_a_retry() && matches!(start, MachineStart::Boot { .. })) {
        // Nobody can inspect what was never made.
        let was_made = exists(&machine.controller).await;
        if was_made {
            pause(context, guest, permits).await;
        }
        let is_there = was_made && machine.exit.borrow().is_none();
        if is_there && context.controls.keeps(&guest.id, context.plan.options.keep, GuestEnd::Failed) {
            keep(context, guest, machine).await;
            return Err(fault);
        }
    }
    end(context, guest, &mut machine.controller, &machine.name).await;
    Err(fault)
}

/// Makes or adopts the machine that is intended.
async fn create(
    context: &RunContext,
    guest: &Guest,
    (place, memory): (Option<&NetworkPlace>, Option<&OwnedFd>),
    controller: &mut Controller,
    (backend, intent): (&dyn Backend, &Intent),
    start: &MachineStart,
) -> Result<()> {
    let options = &context.plan.options;
    let may_stay = options.keep != Keep::Never || options.purpose == RunPurpose::Keep || options.controlled;
    let record_dir = context.guest_dir(guest);
    let services = route::services(guest, &backend::capabilities_of(&guest.backend));
    let request = CreateRequest {
        guest,
        name: &intent.name,
        uuid: &intent.uuid,
        private_dir: &intent.dir,
        record_dir: &record_dir,
        lifetime: if may_stay { Lifetime::MayOutliveUs } else { Lifetime::TiedToUs },
        services: &services,
        network: place.map(NetworkPlace::port),
        freezable: start.is_freezable(),
        memory,
    };
    let tell =
        |text: &str| context.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text: text.to_owned() });
    let call = CallContext { progress: &tell, ..CallContext::new(CREATE, &context.cancel) };
    let made: BoxFuture<'_, Result<Box<dyn Machine>>> = match (&intent.adopted, backend.adoption()) {
        (None, _) => match (start, backend.snapshots()) {
            (MachineStart::Restore { snapshot, .. }, Some(power)) => power.restore(request, &snapshot.folder, call),
            _ => backend.create(request, call),
        },
        (Some(target), Some(adoption)) => adoption.adopt(request, target, call),
        (Some(_), None) => return Err(Fault::bug("a backend that adopts nothing found a machine to adopt")),
    };
    let work = controller.create(call.run(format!("create guest `{}`", guest.id), made));
    PhaseEvents::begin(&context.events, &guest.id, Phase::Create, None).around(work).await
}

/// Returns whether there is a machine that could be kept.
async fn exists(controller: &Controller) -> bool {
    match controller.machine() {
        Some(machine) => matches!(clock::within(ASK, machine.exists()).await, Some(Ok(true))),
        None => false,
    }
}
