//! `vmdeck cleanup`: what would be removed or put back, and doing it.
//!
//! The rules are `reap`'s; asking a person is the front end's.

use super::{
    admission, inventory, lock,
    reap::{self, Leftover, ReapScope, Reaped},
};
use crate::{
    backend::{self, BackendDeps, proof::Proof, record::MachineRecord},
    context::CallContext,
};
use std::{collections::BTreeMap, path::Path, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault},
    ids::GuestId,
    machine::{MachineInfo, OwnedMachine},
};

/// How long asking for the size of one machine may take.
const SIZE: Duration = Duration::from_secs(30);
/// How long removing one machine may take.
const REMOVE: Duration = Duration::from_mins(2);

/// Returns what would be removed or put back.
pub fn preview(deps: &BackendDeps) -> Vec<Leftover> {
    reap::leftovers(&deps.state)
}

/// Returns the machines that are kept for guests of the config in this folder, those that a run uses now included: each by its name,
/// with its guest.
pub fn kept_machines(state: &Path, folder: &Path) -> BTreeMap<String, GuestId> {
    let of_folder = reap::journal_states(state).filter(|journal| journal.folder == folder);
    of_folder.flat_map(|journal| journal.kept.into_iter().map(|(name, machine)| (name, machine.guest))).collect()
}

/// Returns the kept machines of the config in this folder that runs use now: each with its guest and the run.
pub fn kept_in_use(state: &Path, folder: &Path) -> Vec<(MachineRecord, String)> {
    let live = reap::journal_states_alive(state).filter(|(journal, alive)| *alive && journal.folder == folder);
    live.flat_map(|(journal, _)| journal.kept.into_values().map(move |machine| (machine, journal.run.clone())))
        .collect()
}

/// Returns machines made by others whose names have a configured test prefix; never one that a run of ours names.
pub async fn by_prefix(deps: &BackendDeps, prefixes: &[String]) -> (Vec<MachineInfo>, Vec<Fault>) {
    let seen = inventory::list(deps).await;
    let adopts = |kind: &str| backend::find(kind).is_ok_and(|row| row.capabilities.adopts);
    let fits = |row: &OwnedMachine| {
        row.run.is_none()
            && adopts(row.machine.backend)
            && prefixes.iter().any(|p| row.machine.name.starts_with(p.as_str()))
    };
    (seen.rows.into_iter().filter(fits).map(|row| row.machine).collect(), seen.unseen)
}

/// Returns how much disk space a machine takes, in bytes, as far as its backend knows.
pub async fn size(deps: &BackendDeps, machine: &MachineInfo) -> Option<u64> {
    let row = backend::find(machine.backend).ok()?;
    let (backend, never) = ((row.build)(deps), CancellationToken::new());
    backend.removal()?.size(machine, CallContext::new(SIZE, &never)).await.ok().flatten()
}

/// Removes machines made by others, at a person's request.
pub async fn remove(deps: &BackendDeps, machines: &[MachineInfo], told: &mut (dyn FnMut(Reaped) + Send)) {
    for machine in machines {
        let cannot = || Fault::new(Blame::Leftover, format!("cannot remove `{}`", machine.name));
        // Asked again: a run may have taken it since it was listed.
        let removed = match (backend::find(machine.backend), inventory::is_nobodys(deps, machine)) {
            (Ok(row), Ok(true)) => {
                let (backend, never) = ((row.build)(deps), CancellationToken::new());
                match backend.removal() {
                    Some(removal) => removal.remove(machine, CallContext::new(REMOVE, &never)).await,
                    None => {
                        Proof::Unknown(cannot().because(format!("the backend `{}` cannot remove it", machine.backend)))
                    }
                }
            }
            (Ok(_), Ok(false)) => Proof::Unknown(cannot().because("a run of vmdeck is using it now")),
            (Err(fault), _) | (_, Err(fault)) => Proof::Unknown(fault),
        };
        let what = machine.name.clone();
        told(match removed.into_result() {
            Ok(how) => Reaped::Gone { run: String::new(), what, how, adopted: false },
            Err(fault) => Reaped::Left { what, fault },
        });
    }
}

/// Removes or puts back everything; `told` is called with each outcome. Also removes the lock `lock_path` where its
/// holder is dead.
pub async fn run(deps: &BackendDeps, lock_path: &Path, told: &mut (dyn FnMut(Reaped) + Send)) {
    reap::dead_runs(deps, ReapScope::Kept, told).await;
    // Somebody alive may hold it by now, and then it stays.
    let _ = lock::break_dead(lock_path, false);
    lock::sweep_private(lock_path);
    admission::sweep(lock_path);
}
