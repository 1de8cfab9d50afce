//! The right to run a case: together with those of other guests, or alone.

use crate::engine::context::RunContext;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use vmdeck_model::{
    event::EventKind,
    ids::GuestId,
    suite::{Case, Suite},
};

/// The right, as long as it is held.
pub(super) enum Floor<'a> {
    Shared { _held: RwLockReadGuard<'a, ()> },
    Alone { _held: RwLockWriteGuard<'a, ()> },
}

impl<'a> Floor<'a> {
    fn shared(held: RwLockReadGuard<'a, ()>) -> Self {
        Self::Shared { _held: held }
    }

    fn alone(held: RwLockWriteGuard<'a, ()>) -> Self {
        Self::Alone { _held: held }
    }
}

/// Waits for the right to run a case; `None` = the run was cancelled, or the guest stopped.
pub(super) async fn take<'a>(
    context: &'a RunContext,
    guest: &GuestId,
    suite: &Suite,
    case: &Case,
) -> Option<Floor<'a>> {
    let floor = &context.floor;
    let free = if case.exclusive { floor.try_write().map(Floor::alone) } else { floor.try_read().map(Floor::shared) };
    if let Ok(free) = free {
        return Some(free);
    }
    let why = if case.exclusive { "it is to run alone" } else { "one that runs alone comes first" };
    let text = format!("case `{}/{}` waits for others: {why}", suite.id, case.id);
    context.events.send(EventKind::Progress { guest: Some(guest.clone()), text });
    let wait =
        async { if case.exclusive { Floor::alone(floor.write().await) } else { Floor::shared(floor.read().await) } };
    let control = context.controls.of(guest);
    let stopped = async {
        match &control {
            Some(control) => control.stop.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        floor = wait => Some(floor),
        () = context.cancel.cancelled() => None,
        () = stopped => None,
    }
}
