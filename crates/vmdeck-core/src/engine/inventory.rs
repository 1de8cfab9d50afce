//! Every machine that the backends see, and whose it is.
//!
//! Ownership comes from the journals alone; a name proves nothing.

use super::{journal, reap};
use crate::{
    backend::{BACKENDS, BackendDeps, record::MachineRecord},
    context::CallContext,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    machine::{MachineInfo, OwnedMachine, Owner},
};

/// How long one backend's list may take.
const LIST: Duration = Duration::from_mins(1);

/// The machines that the backends see.
#[derive(Debug, Default)]
pub struct Inventory {
    /// The machines, backend by backend.
    pub rows: Vec<OwnedMachine>,
    /// Why a backend's machines could not be seen: a missing list is not an empty one.
    pub unseen: Vec<Fault>,
}

/// Lists the machines of all backends.
pub async fn list(deps: &BackendDeps) -> Inventory {
    let ours = ours(deps);
    let (mut out, never) = (Inventory::default(), CancellationToken::new());
    for row in BACKENDS {
        match (row.build)(deps).list(CallContext::new(LIST, &never)).await {
            Ok(machines) => out.rows.extend(machines.into_iter().map(|machine| owned(machine, &ours))),
            Err(fault) => out.unseen.push(fault),
        }
    }
    out
}

fn owned(machine: MachineInfo, ours: &[Ours]) -> OwnedMachine {
    match ours.iter().find(|ours| ours.is(&machine)) {
        Some(Ours { made, run, owner }) => OwnedMachine {
            machine: MachineInfo { address: made.address.map(|a| a.to_string()).or(machine.address), ..machine },
            run: Some(run.clone()),
            owner: *owner,
            guest: Some(made.guest.to_string()),
        },
        None => OwnedMachine { machine, run: None, owner: Owner::NotOurs, guest: None },
    }
}

/// Returns the folder of the record of a run that is not over, or left something, as its journal names it.
pub fn record_of(deps: &BackendDeps, run: &str) -> Option<std::path::PathBuf> {
    reap::journal_states(&deps.state).find(|state| state.run == run).map(|state| state.dir)
}

/// Something that a journal names.
struct Ours {
    made: MachineRecord,
    run: String,
    owner: Owner,
}

impl Ours {
    fn is(&self, machine: &MachineInfo) -> bool {
        let made = &self.made;
        // A provider may tell no id, or none now: of a machine on a member that is away.
        let known = made.id.uuid.as_ref().zip(machine.id.as_ref());
        let is_same = known.is_none_or(|(ours, theirs)| ours == theirs);
        made.backend == machine.backend && made.provider_name() == machine.name && is_same
    }
}

fn ours(deps: &BackendDeps) -> Vec<Ours> {
    let mut out = Vec::new();
    for (state, alive) in reap::journal_states_alive(&deps.state) {
        let run = &state.run;
        let add = |made, owner| Ours { made, run: run.clone(), owner };
        out.extend(state.open.into_values().map(|made| add(made, if alive { Owner::Running } else { Owner::Dead })));
        out.extend(state.kept.into_values().map(|made| add(made, if alive { Owner::Running } else { Owner::Kept })));
    }
    out
}

/// Returns whether no run of ours has anything to do with this machine, now; an error where a journal cannot be read.
pub(super) fn is_nobodys(deps: &BackendDeps, machine: &MachineInfo) -> Result<bool> {
    for path in reap::journals(&deps.state) {
        if let Err(why) = journal::read(&path)
            .or_else(|why| if path.exists() { Err(why) } else { Ok(journal::JournalState::default()) })
        {
            return Err(Fault::host(format!("cannot find out who owns `{}`", machine.name))
                .because(format!("`{}`: {why}", path.display()))
                .hint("inspect that journal, remove by hand what it names, then remove the journal"));
        }
    }
    Ok(!ours(deps).iter().any(|ours| ours.is(machine)))
}
