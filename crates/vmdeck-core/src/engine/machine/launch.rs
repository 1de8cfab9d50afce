//! Makes a machine for a guest: intent first, then the provider, then the boot; what fails is taken down and tried again.

use super::{
    LeasedMachine, Permits, PhaseEvents,
    connection::GuestConnection,
    controller::Controller,
    diagnostics::diagnose,
    hold::pause,
    intent::Intent,
    preparation::{controller, prepare_record},
    private_network::NetworkPlace,
    retry,
    take_down::{discard_uncreated, end, keep},
    takeover,
};
use crate::{
    backend::{
        self,
        contract::{Backend, Machine},
        request::{CreateRequest, Lifetime},
    },
    context::CallContext,
    engine::{context::RunContext, controls::GuestEnd, journal::Record},
    host::clock,
    transport::route,
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
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

/// Makes and boots a machine, which has this place in the private network of its job; tries again where that can help. One that will
/// not be tried again is held for inspection, if that is wanted, and its permits are given back.
pub(in crate::engine) async fn launch(
    context: &RunContext,
    guest: &Arc<Guest>,
    place: Option<&NetworkPlace>,
    permits: &Permits,
) -> Result<LeasedMachine> {
    if context.plan.options.reuse
        && guest.fresh == Fresh::Run
        && place.is_none()
        && let Some(machine) = takeover::take_over(context, guest).await
    {
        return Ok(machine);
    }
    let mut attempt = 1;
    loop {
        let last = attempt >= guest.launch_retries;
        let fault = match launch_once(context, guest, place, permits, last).await {
            Ok(machine) => return Ok(machine),
            Err(fault) => fault,
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

async fn launch_once(
    context: &RunContext,
    guest: &Arc<Guest>,
    place: Option<&NetworkPlace>,
    permits: &Permits,
    last: bool,
) -> Result<LeasedMachine> {
    let row = backend::find(&guest.backend)?;
    let backend = (row.build)(&context.backend);
    let record_dir = context.guest_dir(guest);
    prepare_record(&record_dir)?;
    let intent = Intent::write(context, guest, backend.as_ref(), row).await?;
    let name = intent.name.clone();
    let connection = GuestConnection::new(context, guest, place.cloned());
    let console = connection.console_watch();
    let mut controller = controller(context, guest, &name, connection);
    if let Err(fault) = create(context, guest, place, &mut controller, backend.as_ref(), &intent).await {
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
    let Err(fault) = started else { return Ok(machine) };
    diagnose(context, guest, &machine.controller, &fault).await;
    if last || !fault.is_worth_a_retry() {
        // Nobody can inspect what was never made.
        let was_made = exists(&machine.controller).await;
        if was_made {
            pause(context, guest, permits).await;
        }
        let is_there = was_made && machine.exit.borrow().is_none();
        if is_there && context.controls.keeps(&guest.id, context.plan.options.keep, GuestEnd::Failed) {
            keep(context, guest, machine);
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
    place: Option<&NetworkPlace>,
    controller: &mut Controller,
    backend: &dyn Backend,
    intent: &Intent,
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
    };
    let tell =
        |text: &str| context.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text: text.to_owned() });
    let call = CallContext { progress: &tell, ..CallContext::new(CREATE, &context.cancel) };
    let made: BoxFuture<'_, Result<Box<dyn Machine>>> = match (&intent.adopted, backend.adoption()) {
        (None, _) => backend.create(request, call),
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
