//! A guest in words: what it is doing, how far its boot is, whether it has gone quiet. Shared by the list and the details.

use crate::{model::Model, role::StyleRole};
use std::time::Duration;
use vmdeck_model::{
    event::Phase,
    lifecycle::MachineState,
    quantity::show_duration,
    run_view::{GuestView, OpenPhase},
};

/// Quiet for less than this is not worth a word, milliseconds.
const QUIET_MIN: u64 = 10_000;

/// Returns milliseconds as people write them.
pub(super) fn time(ms: u64) -> String {
    // Whole seconds once it takes long: tenths that change are noise.
    let ms = if ms >= 10_000 { ms / 1000 * 1000 } else { ms / 100 * 100 };
    show_duration(Duration::from_millis(ms))
}

/// How far a boot is.
#[expect(clippy::struct_field_names, reason = "the unit belongs to each")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BootProgress {
    /// The time since power-on, in milliseconds.
    pub(super) took_ms: u64,
    /// How long a boot usually takes in all, in milliseconds; `None` = never booted before.
    pub(super) usual_ms: Option<u64>,
    /// How long is left if the boot is as long as usual, in milliseconds.
    pub(super) left_ms: Option<u64>,
}

/// Returns how far the boot of a guest is; `None` = it does not boot now.
pub(super) fn boot(view: &GuestView, now_ms: u64) -> Option<BootProgress> {
    let open = view.open.iter().rfind(|o| o.phase.is_boot())?;
    let done: u64 = view.done.iter().filter(|(p, _)| p.is_boot()).map(|(_, ms)| ms).sum();
    let here = now_ms.saturating_sub(open.since_ms);
    let usual_ms = open.usual_ms.map(|usual| done + usual + open.rest_ms.unwrap_or(0));
    let left_ms = open.usual_ms.map(|usual| usual.saturating_sub(here) + open.rest_ms.unwrap_or(0));
    Some(BootProgress { took_ms: done + here, usual_ms, left_ms })
}

/// `no output for 40 s (usual: 6 s)`, where a boot has gone quiet for longer than it does.
pub(super) fn quiet(view: &GuestView, now_ms: u64) -> Option<String> {
    let open = view.open.iter().rfind(|o| o.phase.is_boot())?;
    let quiet = now_ms.saturating_sub(view.heard_ms?);
    let usual = open.quiet_ms.unwrap_or(0);
    if quiet < QUIET_MIN.max(2 * usual) {
        return None;
    }
    let usual = open.quiet_ms.map(|ms| format!(" (usual: {})", time(ms))).unwrap_or_default();
    Some(format!("no output for {}{usual}", time(quiet)))
}

/// Returns what the guest is doing, and the role of that.
pub(super) fn doing(model: &Model, view: &GuestView, now_ms: u64) -> (String, StyleRole) {
    if !view.left.is_empty() {
        return ("LEFT BEHIND".into(), StyleRole::StateBad);
    }
    if model.is_orphaned() && (!view.open.is_empty() || view.case.is_some()) {
        return ("lost with its engine".into(), StyleRole::StateBad);
    }
    if let Some(question) = &view.question {
        return (format!("asks: {question}"), StyleRole::StateWarn);
    }
    if let Some((suite, case)) = &view.case {
        return (format!("{suite}/{case} {}", time(now_ms.saturating_sub(view.case_since_ms))), StyleRole::StateBusy);
    }
    if let Some(open) = view.open.last() {
        return phase(open, now_ms);
    }
    match view.state {
        _ if view.kept => ("kept".into(), StyleRole::StateKept),
        MachineState::NotCreated if model.shown.view.exit.is_none() && model.shown.view.run.is_some() => {
            ("waiting".into(), StyleRole::StateIdle)
        }
        MachineState::NotCreated => ("not started".into(), StyleRole::StateIdle),
        MachineState::Created => ("created".into(), StyleRole::StateBusy),
        MachineState::Running => ("up".into(), StyleRole::StateOk),
        MachineState::Terminated if view.boot_failed => ("did not boot; gone".into(), StyleRole::StateBad),
        MachineState::Terminated => ("gone".into(), StyleRole::StateIdle),
        MachineState::Invalid => ("INVALID".into(), StyleRole::StateBad),
    }
}

fn phase(open: &OpenPhase, now_ms: u64) -> (String, StyleRole) {
    let took = now_ms.saturating_sub(open.since_ms);
    match open.phase {
        Phase::Hold => (format!("up for {}", time(took)), StyleRole::StateOk),
        Phase::Pause => {
            let left = open.usual_ms.unwrap_or(0).saturating_sub(took);
            (format!("PAUSED, gone in {}", time(left)), StyleRole::StateWarn)
        }
        phase => (format!("{} {}", phase.as_str(), time(took)), StyleRole::StateBusy),
    }
}

/// Returns the guest's results so far in short: `3/5`, and how many failed.
pub(super) fn results(view: &GuestView) -> String {
    if view.planned == 0 {
        return String::new();
    }
    let bad = view.tally.failed + view.tally.infra;
    let bad = if bad > 0 { format!(" {bad} failed") } else { String::new() };
    format!("{}/{}{bad}", view.tally.total(), view.planned)
}
