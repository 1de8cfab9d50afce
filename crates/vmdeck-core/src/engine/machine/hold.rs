//! Holds a machine: for a person who wants to use it, or one who wants to inspect a failure.

use super::{LeasedMachine, Permits, recv_once};
use crate::{
    engine::{context::RunContext, phase_events::PhaseEvents},
    host::clock,
};
use std::time::Duration;
use vmdeck_model::{event::Phase, guest::Guest};

/// How long a guest that somebody has left stays at least.
const MOMENT: Duration = Duration::from_secs(30);

/// Lets a person inspect a guest that failed, for as long as the plan says or until they continue. The permits are given
/// back: the other guests continue. While somebody is in the guest its time does not run out.
pub(in crate::engine) async fn pause(context: &RunContext, guest: &Guest, permits: &Permits) {
    let Some(limit) = context.plan.options.pause.filter(|_| !context.cancel.is_cancelled()) else { return };
    let Some(control) = context.controls.of(&guest.id) else { return };
    permits.give_back();
    context.set_lock_phase(&format!("{} failed and is held for inspection", guest.id));
    let (over, mut in_use) = (control.begin_pause(), control.in_use());
    let mut left = limit;
    while !over.is_cancelled() && !left.is_zero() {
        let is_in_use = *in_use.borrow_and_update();
        let changed = async {
            if in_use.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let (phase, most) = if is_in_use { (Phase::Hold, Duration::MAX) } else { (Phase::Pause, left) };
        let begun = clock::now();
        let phase = PhaseEvents::begin(&context.events, &guest.id, phase, u64::try_from(most.as_millis()).ok());
        tokio::select! {
            () = over.cancelled() => {}
            () = changed => {}
            () = clock::sleep(most), if !is_in_use => {}
        }
        // Whoever comes back has at least a moment to say what shall become of it.
        left = if is_in_use { left.max(MOMENT) } else { left.saturating_sub(begun.elapsed()) };
        phase.end(true);
    }
}

/// Holds a guest until somebody stops it, or it ends by itself.
pub(in crate::engine) async fn hold(context: &RunContext, guest: &Guest, machine: &mut LeasedMachine) {
    let Some(control) = context.controls.of(&guest.id) else { return };
    context.set_lock_phase(&format!("holding {}", guest.id));
    let phase = PhaseEvents::begin(&context.events, &guest.id, Phase::Hold, None);
    // What came before is somebody else's.
    let _ = machine.console.open_window(&[]).await;
    let mut error = machine.console.error();
    let unasked = tokio::select! {
        // Cancelled when somebody stops the guest, which is no news.
        waited = machine.controller.wait(&control.stop) => match (waited, machine.exit.borrow().as_ref()) {
            (Ok(()), Some(exit)) => Some(format!("guest `{}`: {exit}", guest.id)),
            _ => None,
        },
        Some(found) = recv_once(&mut error) => Some(found.to_fault().to_string()),
    };
    if let Some(text) = unasked {
        context.events.infra();
        context.events.warn(Some(&guest.id), text, None);
    }
    phase.end(true);
}
