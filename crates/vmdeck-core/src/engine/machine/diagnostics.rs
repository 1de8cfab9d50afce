//! Writes down what can still be known about a machine that will not come up, hangs, or is lost.

use super::{LeasedMachine, controller::Controller};
use crate::{
    backend::contract::{Machine, MachineExit},
    engine::context::RunContext,
    host::clock,
};
use std::{fmt::Write as _, io::Write as _, path::PathBuf, time::Duration};
use vmdeck_model::{
    error::Fault,
    event::EventKind,
    guest::Guest,
    quantity::{show_duration, show_size},
};

/// How long the hypervisor may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The name of a guest's saved memory in its folder of the record.
const MEMORY: &str = "memory.kdump";

fn path(context: &RunContext, guest: &Guest) -> PathBuf {
    context.guest_dir(guest).join("diagnostics.txt")
}

/// Writes `diagnostics.txt` in the guest's folder of the record: the fault, what the machine uses, and what the hypervisor
/// says. Secrets are taken out.
pub(in crate::engine) async fn diagnose(context: &RunContext, guest: &Guest, controller: &Controller, fault: &Fault) {
    let mut text = format!("{fault}\n\n");
    if let Ok(Some(stats)) = controller.stats() {
        let cpu = show_duration(Duration::from_millis(stats.cpu_ms));
        let _ =
            writeln!(text, "the machine uses {} of memory and has used {cpu} of a processor", show_size(stats.memory));
    }
    match clock::within(ANSWER, controller.describe()).await {
        Some(Ok(description)) => text.push_str(&description),
        Some(Err(e)) => {
            let _ = writeln!(text, "the hypervisor does not answer: {e}");
        }
        None => text.push_str("the hypervisor did not answer within 10 s\n"),
    }
    // The fault itself is reported in any case.
    let _ = vmdeck_files::write(&path(context, guest), context.redactor.text(&text).as_bytes());
}

/// Saves the memory of a guest whose kernel has panicked, where the config wants that and the hypervisor can.
pub(in crate::engine) async fn save_memory(context: &RunContext, guest: &Guest, machine: &LeasedMachine) {
    let has_panicked = machine.console.error_now().is_some_and(|found| found.is_panic())
        || matches!(*machine.exit.borrow(), Some(MachineExit::Panicked(_)));
    let Some(power) = machine.controller.machine().and_then(Machine::memory).filter(|_| has_panicked) else { return };
    let to = context.guest_dir(guest).join(MEMORY);
    match power.save(&to).await {
        Ok(()) => {
            let size = to.metadata().map(|meta| meta.len()).unwrap_or_default();
            let text = format!("the guest's memory was saved: guests/{}/{MEMORY} ({})", guest.id, show_size(size));
            context.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
            if !matches!(*machine.exit.borrow(), Some(MachineExit::Panicked(_))) {
                warn_untold(context, guest);
            }
        }
        Err(fault) => {
            let _ = std::fs::remove_file(&to);
            context.events.warn(Some(&guest.id), fault.to_string(), fault.remedy().map(str::to_owned));
        }
    }
}

/// Warns that only the console told of a panic: nothing has stopped the guest at it, so its memory may be of a later moment.
fn warn_untold(context: &RunContext, guest: &Guest) {
    let text = "the hypervisor did not hear of the panic: the saved memory may be of a later moment";
    let hint = "load the module `pvpanic-mmio` (ARM: `pvpanic-pci`; before Linux 5.13: `pvpanic`) early in the guest";
    context.events.warn(Some(&guest.id), text, Some(hint.to_owned()));
}

/// Adds to `diagnostics.txt`, if there is one, when the machine ran and how it ended.
pub(super) fn add_end(context: &RunContext, guest: &Guest, controller: &Controller) {
    let (Some(start), Ok(status)) = (controller.start_time(), controller.exit_status()) else { return };
    let how = status.exit.map_or_else(|| "it was stopped".to_owned(), |exit| exit.to_string());
    let file = std::fs::File::options().append(true).open(path(context, guest));
    if let Ok(mut file) = file {
        let line = format!("\nit ran from {start:?} to {:?}: {how}\n", status.stopped);
        let _ = file.write_all(context.redactor.text(&line).as_bytes());
    }
}
