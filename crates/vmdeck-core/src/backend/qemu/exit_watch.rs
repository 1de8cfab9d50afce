//! Follows what QEMU's control socket says of a machine: how it ended, that its guest restarted or has programs that run, that its
//! memory is saved.

use super::{argv, dump, qmp::QmpEvent};
use crate::{
    backend::contract::{MachineExit, note_exit},
    host::clock,
};
use std::{path::PathBuf, time::Duration};
use tokio::sync::{mpsc, watch};

/// Two resets within this time are one restart: seen 62 ms apart from one `reboot -f`.
const SAME_RESTART: Duration = Duration::from_secs(1);

/// Turns control events into the one fact of how the machine ended; the first cause wins.
pub(super) async fn watch_events(
    mut events: mpsc::UnboundedReceiver<QmpEvent>,
    mut collected: watch::Receiver<bool>,
    told: Told,
    errors: PathBuf,
) {
    let mut last: Option<clock::Instant> = None;
    while let Some(event) = events.recv().await {
        if let Some(how) = meaning(&event) {
            note_exit(&told.exit, how);
        }
        if let (Some(dumped), Some(end)) = (&told.dumped, dump::end(&event)) {
            dumped.send_replace(Some(end));
        }
        if let Some(now) = Migration::of(&event) {
            told.migration.send_replace(now);
        }
        if let Some((id, is_open)) = port_change(&event)
            && id == argv::GUEST_AGENT_PORT
        {
            told.agent.send_replace(is_open);
        }
        if shows_userspace(&event) {
            told.userspace.send_replace(true);
        }
        if is_restart(&event) {
            // One restart is told twice where the guest tries two ways to reset itself.
            told.userspace.send_replace(false);
            if last.is_none_or(|at| at.elapsed() > SAME_RESTART) {
                told.restarts.send_modify(|count| *count += 1);
            }
            last = Some(clock::now());
        }
    }
    let _ = collected.wait_for(|gone| *gone).await;
    let text = String::from_utf8_lossy(&vmdeck_files::read_tail(&errors, 1024)).into_owned();
    let why = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it did not say why").trim().to_owned();
    note_exit(&told.exit, MachineExit::Crashed(why));
}

/// Where control events lead.
pub(super) struct Told {
    pub(super) exit: watch::Sender<Option<MachineExit>>,
    pub(super) restarts: watch::Sender<u32>,
    /// Whether the guest's own agent has its port open.
    pub(super) agent: watch::Sender<bool>,
    /// Whether programs run in the guest.
    pub(super) userspace: watch::Sender<bool>,
    pub(super) dumped: Option<watch::Sender<Option<Result<(), String>>>>,
    /// How far the writing or reading of the machine's state has come.
    pub(super) migration: watch::Sender<Migration>,
}

/// How far the writing or reading of a machine's state has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Migration {
    /// It has not begun, or goes on.
    #[default]
    Open,
    /// All of it is written or read.
    Completed,
    /// It was given up.
    Failed,
}

impl Migration {
    /// Returns whether there is nothing more to come.
    pub(super) fn has_ended(self) -> bool {
        self != Migration::Open
    }

    /// Returns what an event says of it.
    fn of(event: &QmpEvent) -> Option<Self> {
        let status = event.data["status"].as_str().filter(|_| event.name == "MIGRATION")?;
        Some(match status {
            "completed" => Migration::Completed,
            "failed" | "cancelled" => Migration::Failed,
            _ => Migration::Open,
        })
    }
}

/// Returns the serial port that a program in the guest opened or closed, and which of it.
fn port_change(event: &QmpEvent) -> Option<(&str, bool)> {
    let id = event.data["id"].as_str().filter(|_| event.name == "VSERPORT_CHANGE")?;
    Some((id, event.data["open"] == true))
}

/// Returns whether a program must have caused an event: one that opened a serial port, or switched the network on.
fn shows_userspace(event: &QmpEvent) -> bool {
    event.name == "NIC_RX_FILTER_CHANGED" || port_change(event).is_some_and(|(_, is_open)| is_open)
}

/// Returns whether the guest began again by itself.
fn is_restart(event: &QmpEvent) -> bool {
    event.name == "RESET" && event.data["guest"] == true
}

fn meaning(event: &QmpEvent) -> Option<MachineExit> {
    match event.name.as_str() {
        "GUEST_PANICKED" => Some(MachineExit::Panicked("reported by pvpanic".into())),
        "SHUTDOWN" => match event.data["reason"].as_str().unwrap_or("?") {
            "guest-panic" => Some(MachineExit::Panicked("reported by QEMU".into())),
            "guest-reset" => Some(MachineExit::Rebooted),
            reason => Some(MachineExit::Shutdown(reason.to_owned())),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_and_not_exit_codes_tell_how_it_ended() {
        let event = |name: &str, data| QmpEvent { name: name.into(), data };
        let check = |e, how| assert_eq!(meaning(&e), how);
        check(
            event("SHUTDOWN", json!({"guest":true,"reason":"guest-shutdown"})),
            Some(MachineExit::Shutdown("guest-shutdown".into())),
        );
        check(event("SHUTDOWN", json!({"guest":true,"reason":"guest-reset"})), Some(MachineExit::Rebooted));
        check(
            event("SHUTDOWN", json!({"guest":true,"reason":"guest-panic"})),
            Some(MachineExit::Panicked("reported by QEMU".into())),
        );
        check(
            event("GUEST_PANICKED", json!({"action":"pause"})),
            Some(MachineExit::Panicked("reported by pvpanic".into())),
        );
        check(event("STOP", json!({})), None);
        for (event, expected) in [
            (event("MIGRATION", json!({"status":"setup"})), Some(Migration::Open)),
            (event("MIGRATION", json!({"status":"completed"})), Some(Migration::Completed)),
            (event("MIGRATION", json!({"status":"failed"})), Some(Migration::Failed)),
            (event("STOP", json!({"status":"completed"})), None),
        ] {
            assert_eq!(Migration::of(&event), expected);
        }
        for (event, programs) in [
            (event("NIC_RX_FILTER_CHANGED", json!({"path":"/machine/peripheral-anon/device[2]"})), true),
            (event("VSERPORT_CHANGE", json!({"id":"agent-port","open":true})), true),
            (event("VSERPORT_CHANGE", json!({"id":"agent-port","open":false})), false),
            (event("RESUME", json!({})), false),
        ] {
            assert_eq!(shows_userspace(&event), programs, "{}", event.name);
        }
        for (event, restart) in [
            (event("RESET", json!({"guest":true,"reason":"guest-reset"})), true),
            (event("RESET", json!({"guest":false,"reason":"host-qmp-system-reset"})), false),
            (event("SHUTDOWN", json!({"guest":true,"reason":"guest-reset"})), false),
        ] {
            assert_eq!(is_restart(&event), restart, "{}", event.name);
        }
    }
}
