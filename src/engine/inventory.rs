//! Every machine that the backends see, and whose it is.
//!
//! Ownership comes from the journals alone; a name proves nothing.

use super::{journal, reap};
use crate::{
    backend::{self, BACKENDS, Found},
    error::Result,
    host::lockdir,
};
use serde::Serialize;
use std::{collections::BTreeMap, fs::File};

/// A machine with its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The machine.
    #[serde(flatten)]
    pub machine: Found,
    /// The run that made it; `None` = not ours.
    pub run: Option<String>,
    /// `running`, `dead` (its run is, so `vmdeck cleanup` takes it), `kept`, or `not ours`.
    pub owner: &'static str,
    /// The guest that it is for.
    pub guest: Option<String>,
}

/// Lists them all, backend by backend.
pub async fn list(deps: &backend::Deps) -> Result<Vec<Row>> {
    let ours = ours(deps);
    let mut out = Vec::new();
    for row in BACKENDS {
        for machine in (row.build)(deps).list().await? {
            let known = ours.get(&machine.name).filter(|(made, ..)| made.remnant.identity.uuid == machine.id);
            out.push(match known {
                Some((made, run, owner)) => Row {
                    machine: Found { address: made.address.map(|a| a.to_string()).or(machine.address), ..machine },
                    run: Some(run.clone()),
                    owner,
                    guest: Some(made.guest.to_string()),
                },
                None => Row { machine, run: None, owner: "not ours", guest: None },
            });
        }
    }
    Ok(out)
}

/// The record of a run that is not over, or left something: where its journal says that it is.
pub fn record_of(deps: &backend::Deps, run: &str) -> Option<std::path::PathBuf> {
    reap::histories(&deps.state).find(|history| history.run == run).map(|history| history.dir)
}

type Ours = BTreeMap<String, (journal::Made, String, &'static str)>;

fn ours(deps: &backend::Deps) -> Ours {
    let mut out = Ours::new();
    for path in reap::journals(&deps.state) {
        let Ok(history) = journal::read(&path) else { continue };
        let alive = File::open(&path).and_then(|f| lockdir::try_flock(&f)).is_ok_and(|free| !free);
        for (name, made) in history.open {
            out.insert(name, (made, history.run.clone(), if alive { "running" } else { "dead" }));
        }
        for (name, made) in history.kept {
            out.insert(name, (made, history.run.clone(), "kept"));
        }
    }
    out
}
