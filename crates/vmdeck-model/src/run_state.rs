//! What a run is at, in a few lines: for a person who asks a run that seems to hang (SIGQUIT).

use crate::{
    lifecycle::MachineState,
    quantity::{show_count, show_duration},
    run_view::{GuestView, LockView, RunView},
};
use std::time::Duration;

/// Returns what a run is at after so many milliseconds, a line for the run and one for each guest.
pub fn lines(view: &RunView, now_ms: u64) -> Vec<String> {
    let lock = match &view.lock {
        LockView::Unknown => "no lock".to_owned(),
        LockView::Waiting(holder) => format!("waits for the lock of {holder}"),
        LockView::Held => "has the lock".to_owned(),
        LockView::Lost => "has LOST the lock".to_owned(),
    };
    let ended = view.tally.total();
    let warnings = show_count(view.warnings.len(), "warning");
    let head = format!(
        "state after {}: {lock}; {ended} of {} ended; {warnings}",
        time(now_ms),
        show_count(view.planned, "case")
    );
    let guest = |(id, guest): (_, &GuestView)| format!("{id}: {}", of_guest(guest, now_ms));
    std::iter::once(head).chain(view.guests.iter().map(guest)).collect()
}

fn of_guest(guest: &GuestView, now_ms: u64) -> String {
    let since = |ms: u64| time(now_ms.saturating_sub(ms));
    let state = match guest.state {
        MachineState::NotCreated => "no machine yet",
        MachineState::Created => "its machine is made",
        MachineState::Running => "its machine is up",
        MachineState::Invalid => "its machine is not proven gone yet",
        MachineState::Terminated => "its machine is gone",
    };
    let mut out = vec![state.to_owned()];
    out.extend(guest.machine.as_ref().map(|machine| format!("called {machine}")));
    out.extend(guest.open.iter().map(|open| format!("{} since {}", open.phase.as_str(), since(open.since_ms))));
    out.extend(
        guest.case.as_ref().map(|(suite, case)| format!("case {suite}/{case} since {}", since(guest.case_since_ms))),
    );
    out.extend(guest.heard_ms.map(|heard| format!("console silent for {}", since(heard))));
    out.join(", ")
}

fn time(ms: u64) -> String {
    show_duration(Duration::from_millis(ms))
}
