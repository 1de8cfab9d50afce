//! How a machine of a guest begins: by a boot, or from a snapshot.

use super::{SetupKey, SnapshotBook, key};
use crate::{
    assets::snapshot::{SnapshotFacts, store::UsedSnapshot},
    backend::contract::{Backend, Snapshots},
    context::CallContext,
    engine::{context::RunContext, machine::NetworkPlace},
};
use std::{sync::Arc, time::Duration};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::EventKind,
    guest::{Guest, Os},
    plan::RunPurpose,
    snapshot::SnapshotPoint,
};

/// How long finding out what a snapshot depends on may take: an image may have to be fetched.
const ASK: Duration = Duration::from_hours(24);

/// The snapshots that the machines of a guest could begin from.
pub(in crate::engine::machine) struct SnapshotPlan<'a> {
    context: &'a RunContext,
    guest: &'a Guest,
    /// The key of a machine that has booted.
    pub(super) booted: String,
    setup: Option<&'a SetupKey>,
}

/// How one machine begins.
pub(in crate::engine::machine) enum MachineStart {
    /// It boots.
    Boot {
        /// Whether it may be frozen later.
        freezable: bool,
    },
    /// It goes on from a snapshot.
    Restore {
        snapshot: Arc<UsedSnapshot>,
        key: String,
        /// Whether it may be frozen again, once the setup has been run.
        freezable: bool,
    },
}

/// How a machine that goes on is given what must be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::machine) enum Renewal {
    /// By the program that waits in it.
    ByPort,
    /// By a command, once it can be reached.
    ByShell,
    /// Not at all: whoever looks at it wants it as it was.
    None,
}

impl Renewal {
    /// Returns how a machine from this snapshot is renewed.
    pub(in crate::engine::machine) fn of(facts: &SnapshotFacts) -> Self {
        match (facts.point, facts.renews_by_port) {
            (SnapshotPoint::AtFailure, _) => Renewal::None,
            (_, true) => Renewal::ByPort,
            (_, false) => Renewal::ByShell,
        }
    }
}

impl MachineStart {
    /// Returns the start of a machine that goes on from a checkpoint.
    pub(in crate::engine::machine) fn of_checkpoint(context: &RunContext, key: &str) -> Result<Self> {
        let gone = || Fault::infra("cannot go on from the checkpoint").because("it is gone").permanent();
        let snapshot = context.backend.snapshots.find(key, true)?.ok_or_else(gone)?;
        Ok(MachineStart::Restore { snapshot: Arc::new(snapshot), key: key.to_owned(), freezable: false })
    }

    /// Returns whether the machine may be frozen later.
    pub(in crate::engine::machine) fn is_freezable(&self) -> bool {
        let (MachineStart::Boot { freezable } | MachineStart::Restore { freezable, .. }) = self;
        *freezable
    }
}

impl<'a> SnapshotPlan<'a> {
    /// Returns the plan for a guest; `None` = its machines boot. Where the config asks for snapshots that cannot be, that is said once.
    pub(in crate::engine::machine) async fn of(
        context: &'a RunContext,
        guest: &'a Guest,
        backend: &dyn Backend,
        place: Option<&NetworkPlace>,
        setup: Option<&'a SetupKey>,
    ) -> Result<Option<Self>> {
        let point = guest.snapshot_point();
        if point == SnapshotPoint::Off || context.snapshots.has_given_up(guest.told_as()) {
            return Ok(None);
        }
        let why = match backend.snapshots() {
            None => Some("its backend cannot freeze machines"),
            Some(_) if place.is_some() => Some("it is in a private network with others"),
            Some(_) if guest.os != Os::Linux => Some("only Linux can be told that it was copied"),
            Some(power) => power.refusal(guest),
        };
        let (Some(power), None) = (backend.snapshots(), why) else {
            boots(context, guest, why.unwrap_or_default());
            return Ok(None);
        };
        let booted = booted_key(context, guest, power).await?;
        let setup = setup.filter(|_| point == SnapshotPoint::AfterSetup);
        Ok(Some(Self { context, guest, booted, setup }))
    }

    /// Returns how the next machine begins: as late as there is a snapshot of. `was_frozen` = one was made just now; if it is gone, somebody
    /// removes what is made here, and it is not made again.
    pub(in crate::engine::machine) async fn start(&self, was_frozen: bool) -> MachineStart {
        if self.context.snapshots.has_given_up(self.guest.told_as()) {
            return MachineStart::Boot { freezable: false };
        }
        if let Some(setup) = self.setup {
            let key = setup.on(&self.booted);
            if let Some(snapshot) = self.find(&key).await {
                return MachineStart::Restore { snapshot, key, freezable: false };
            }
        }
        match self.find(&self.booted).await {
            Some(snapshot) => {
                MachineStart::Restore { snapshot, key: self.booted.clone(), freezable: self.setup.is_some() }
            }
            None => MachineStart::Boot { freezable: !was_frozen },
        }
    }

    /// Returns a snapshot that is whole; a broken one is removed, and that is said.
    async fn find(&self, key: &str) -> Option<Arc<UsedSnapshot>> {
        if let Some(used) = self.context.snapshots.used(key) {
            return Some(used);
        }
        let (store, name) = (self.context.backend.snapshots.clone(), key.to_owned());
        let check = !self.context.snapshots.is_made(key);
        // It may read hundreds of megabytes.
        let found = tokio::task::spawn_blocking(move || store.find(&name, check)).await;
        match found.unwrap_or(Ok(None)) {
            Ok(None) => None,
            Ok(Some(found)) => {
                let found = Arc::new(found);
                self.context.snapshots.set_used(key, &found);
                Some(found)
            }
            Err(fault) => {
                self.context.events.warn(Some(&self.guest.id), format!("{fault}; it is removed"), None);
                None
            }
        }
    }

    /// Notes that no machine could be made from a snapshot: it is removed, and machines of this guest boot.
    pub(in crate::engine::machine) fn distrust(&self, key: &str, fault: &Fault) {
        if fault.blame() == Blame::Cancelled {
            return;
        }
        let text = format!("guest `{}` could not go on from its snapshot, and boots: {fault}", self.guest.id);
        self.context.events.warn(Some(&self.guest.id), text, None);
        self.context.snapshots.let_go(key);
        // What stands on it is of no use either.
        let _ = self.context.backend.snapshots.remove(key);
        self.context.snapshots.give_up(self.guest.told_as());
    }
}

/// Returns the key of a machine of a guest that has booted; it is found out once in a run.
async fn booted_key(context: &RunContext, guest: &Guest, power: &dyn Snapshots) -> Result<String> {
    if let Some(known) = context.snapshots.key(guest.told_as()) {
        return Ok(known);
    }
    let tell = |text: &str| progress(context, guest, text.to_owned());
    let call = CallContext { progress: &tell, ..CallContext::new(ASK, &context.cancel) };
    let key = call.run("find out what the snapshot depends on", key::booted(guest, power, call)).await?;
    context.snapshots.set_key(guest.told_as(), &key);
    Ok(key)
}

/// Notes that the machines of a guest boot, and says why where the config wants something else.
fn boots(context: &RunContext, guest: &Guest, why: &str) {
    let is_news = SnapshotBook::give_up(&context.snapshots, guest.told_as());
    if is_news && guest.snapshot.is_some() && context.plan.options.purpose == RunPurpose::Cases {
        let text = format!("guest `{}` is not frozen, and each of its machines boots: {why}", guest.id);
        context.events.warn(Some(&guest.id), text, Some("set `snapshot = \"off\"`".to_owned()));
    }
}

/// Tells a person what is being done for a guest.
pub(super) fn progress(context: &RunContext, guest: &Guest, text: String) {
    context.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
}
