//! `vmdeck cleanup`: what would be taken, and taking it.
//!
//! The rules are `reap`'s; asking a person is the front end's.

use super::{
    inventory, lock,
    reap::{self, Leftover, Reaped, Scope},
};
use crate::backend;
use std::path::Path;
use vmdeck_model::error::{Blame, Fault};
use vmdeck_model::machine::{MachineInfo, OwnedMachine};

/// What would be taken.
pub fn preview(deps: &backend::Deps) -> Vec<Leftover> {
    reap::leftovers(&deps.state)
}

/// Machines of others, by the prefixes that the config gives to machines for tests; never one that a run of ours names.
pub async fn by_prefix(deps: &backend::Deps, prefixes: &[String]) -> (Vec<MachineInfo>, Vec<Fault>) {
    let seen = inventory::list(deps).await;
    let adopts = |kind: &str| backend::find(kind).is_ok_and(|row| row.caps.adopts);
    let fits = |row: &OwnedMachine| {
        row.run.is_none()
            && adopts(row.machine.backend)
            && prefixes.iter().any(|p| row.machine.name.starts_with(p.as_str()))
    };
    (seen.rows.into_iter().filter(fits).map(|row| row.machine).collect(), seen.unseen)
}

/// What a machine takes on the disk, as far as its backend can tell.
pub async fn size(deps: &backend::Deps, machine: &MachineInfo) -> Option<u64> {
    let row = backend::find(machine.backend).ok()?;
    (row.build)(deps).size(machine).await.ok().flatten()
}

/// Removes machines of others, on a person's word.
pub async fn remove(deps: &backend::Deps, machines: &[MachineInfo], told: &mut (dyn FnMut(Reaped) + Send)) {
    for machine in machines {
        // Asked again: a run may have taken it since it was listed.
        let removed = match (backend::find(machine.backend), inventory::is_nobodys(deps, machine)) {
            (Ok(row), Ok(true)) => (row.build)(deps).remove(machine).await,
            (Ok(_), Ok(false)) => Err(Fault::new(Blame::Leftover, format!("cannot remove `{}`", machine.name))
                .because("a run of vmdeck uses it by now")),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
        };
        let what = machine.name.clone();
        told(match removed {
            Ok(how) => Reaped::Gone { run: String::new(), what, how, adopted: false },
            Err(fault) => Reaped::Left { what, fault },
        });
    }
}

/// Takes it all; `told` hears of each. Also removes the lock `lock_path` where its holder is dead.
pub async fn run(deps: &backend::Deps, lock_path: &Path, told: &mut (dyn FnMut(Reaped) + Send)) {
    reap::dead_runs(deps, Scope::Kept, told).await;
    // Somebody alive may hold it by now, and then it stays.
    let _ = lock::break_dead(lock_path, false);
    lock::sweep_private(lock_path);
}
