//! `vmdeck snapshot`: the machines that were frozen, by hand. Runs make, use and remove them by themselves.

use super::{Io, settings};
use crate::cli::{ConfigArgs, SnapshotSub};
use serde_json::json;
use vmdeck_core::{
    assets::snapshot::store::{SnapshotStore, StoredSnapshot},
    host::clock,
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    ids::short_run,
    quantity::{show_count, show_duration, show_size},
};

/// How many characters of a key are shown: enough to tell it from others.
const SHOWN: usize = 12;

pub(super) fn run(sub: &SnapshotSub, config: &ConfigArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let store = SnapshotStore::new(&settings::load_host(config)?.0.snapshots);
    match sub {
        SnapshotSub::List { json } => list(&store, *json, io)?,
        SnapshotSub::Rm { key } => {
            let all = store.list();
            let hits: Vec<&StoredSnapshot> = all.iter().filter(|snapshot| snapshot.key.starts_with(key)).collect();
            let [snapshot] = hits[..] else {
                let why = if hits.is_empty() { "no snapshot" } else { "several snapshots" };
                return Err(Fault::user(format!("cannot remove `{key}`"))
                    .because(format!("{why} with a key that begins so"))
                    .hint("`vmdeck snapshot list` shows the keys"));
            };
            // What stands on its disk goes first.
            for gone in store.remove(&snapshot.key)? {
                io.say(&format!("removed {}", described(&gone)));
            }
        }
        SnapshotSub::Prune { size } => {
            let gone = store.trim(Some(size.unwrap_or(0)));
            for snapshot in &gone {
                io.say(&format!("removed {}", described(snapshot)));
            }
            let size = show_size(gone.iter().map(|snapshot| snapshot.size).sum());
            io.say(&format!("{}, {size}", show_count(gone.len(), "snapshot")));
        }
    }
    Ok(RunExit::Passed)
}

fn list(store: &SnapshotStore, json: bool, io: &mut Io<'_>) -> Result<()> {
    let all = store.list();
    let age = |snapshot: &StoredSnapshot| clock::system().duration_since(snapshot.used).unwrap_or_default();
    if json {
        let row = |snapshot: &StoredSnapshot| {
            let facts = &snapshot.facts;
            json!({ "key": snapshot.key, "path": snapshot.folder, "size": snapshot.size, "guest": facts.guest,
                    "backend": facts.backend, "config": facts.config, "point": facts.point, "suite": facts.suite, "failed": facts.failed,
                    "created": facts.created, "parent": facts.parent, "unused_s": age(snapshot).as_secs() })
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        io.say(&serde_json::to_string_pretty(&rows).map_err(|e| Fault::bug("cannot write JSON").because(e))?);
        return Ok(());
    }
    if all.is_empty() {
        io.say(&format!("no snapshot in `{}`", store.folder().display()));
    }
    for snapshot in &all {
        let (size, used) = (show_size(snapshot.size), show_duration(age(snapshot)));
        io.say(&format!("{size:>10}  used {used} ago  {}  {}", described(snapshot), snapshot.facts.config));
    }
    Ok(())
}

/// Returns a snapshot as a person knows it: the beginning of its key, its guest, and when it was frozen.
fn described(snapshot: &StoredSnapshot) -> String {
    let facts = &snapshot.facts;
    let key: String = snapshot.key.chars().take(SHOWN).collect();
    let suite = match (&facts.failed, &facts.suite) {
        (Some((run, case)), _) => format!(" of `{}/{case}`", short_run(run)),
        (None, Some(suite)) => format!(" of `{suite}`"),
        (None, None) => String::new(),
    };
    vmdeck_model::text::one_line(&format!("{key}  {} {}{suite}", facts.guest, facts.point))
}
