//! What a machine needs before it is made or taken over: its folder of the record, and its controller.

use super::{connection::GuestConnection, controller::Controller};
use crate::engine::context::RunContext;
use std::path::Path;
use vmdeck_model::{
    error::{Fault, Result},
    event::EventKind,
    guest::Guest,
};

/// Makes a guest's folder of the record ready for a machine.
pub(super) fn prepare_record(folder: &Path) -> Result<()> {
    vmdeck_files::make_folders(folder).map_err(|e| {
        Fault::host(format!("cannot make `{}`", folder.display())).because(e).hint("free disk space, or set --run-dir")
    })?;
    set_aside_console(folder);
    Ok(())
}

/// Returns the controller of a guest's machine of this name, which tells of each change of its state.
pub(super) fn controller(context: &RunContext, guest: &Guest, name: &str, connection: GuestConnection) -> Controller {
    let (events, id, machine) = (context.events.clone(), guest.id.clone(), name.to_owned());
    let on_change = Box::new(move |from, to, why: &str| {
        let machine = Some(machine.clone());
        events.send(EventKind::GuestState { guest: id.clone(), from, to, why: why.to_owned(), machine });
    });
    Controller::new(Box::new(connection), on_change)
}

/// Keeps the console of an earlier machine of this guest: every machine writes a log of its own.
fn set_aside_console(record: &Path) {
    let current = record.join("console.log");
    let free = (1..1000).map(|n| record.join(format!("console-{n}.log"))).find(|p| !p.exists());
    if let Some(free) = free.filter(|_| current.exists()) {
        // If it stays, the new machine's lines follow the old ones; nothing is lost.
        let _ = std::fs::rename(&current, &free);
        let _ = std::fs::rename(current.with_extension("times"), free.with_extension("times"));
    }
}
