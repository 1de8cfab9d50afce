//! Decides whether a machine is made or one of others is adopted, and makes the intent durable before the provider hears of it.

use crate::{
    backend::{
        BackendInfo,
        contract::Backend,
        record::{AdoptTarget, MachineId, MachineRecord},
    },
    context::CallContext,
    engine::{context::RunContext, journal::Record, reap},
    host::{clock, files, lockdir, random},
};
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    ids::machine_name,
};

/// How long finding the machine to adopt may take.
const FIND: Duration = Duration::from_mins(1);
/// How long another guest may be busy with adopting.
const ALONE: Duration = Duration::from_mins(1);

/// A machine that is about to be made or adopted, with its intent in the journal.
pub(super) struct Intent {
    /// The generated name.
    pub(super) name: String,
    /// The generated UUID.
    pub(super) uuid: String,
    /// Where the backend looks for it.
    place: BTreeMap<String, String>,
    /// The private folder of the machine.
    pub(super) dir: PathBuf,
    /// The machine that is adopted; `None` = a new one is made.
    pub(super) adopted: Option<AdoptTarget>,
}

impl Intent {
    /// Writes the intent for a guest to the journal.
    pub(super) async fn write(
        context: &RunContext,
        guest: &Guest,
        backend: &dyn Backend,
        row: &BackendInfo,
    ) -> Result<Self> {
        let call = CallContext::new(FIND, &context.cancel);
        let adopted = match backend.adoption() {
            Some(adoption) => call.run(format!("create guest `{}`", guest.id), adoption.find(guest, call)).await?,
            None => None,
        };
        // Nobody may come between the question whether it is used and the note that it is.
        let _alone = match &adopted {
            Some(target) => {
                let alone = only_one(&context.backend.state).await?;
                refuse_if_used(context, guest, target)?;
                Some(alone)
            }
            None => None,
        };
        let name = machine_name(&context.plan.run, random::u32());
        let dir = reap::machine_folder(&context.backend.state, &name);
        let uuid = random::uuid();
        let place = backend.place(guest)?;
        let known = match &adopted {
            Some(target) => target.id.clone(),
            None => row.capabilities.takes_uuid.then(|| uuid.clone()),
        };
        context.journal.append(&Record::Intent {
            name: name.clone(),
            backend: guest.backend.clone(),
            guest: guest.id.clone(),
            dir: dir.clone(),
            identity: MachineId { uuid: known, ..MachineId::default() },
            adopted: adopted.clone(),
            place: place.clone(),
        })?;
        Ok(Self { name, uuid, place, dir, adopted })
    }

    /// Returns what the journal knows of the machine as long as nothing more than the intent was written.
    pub(super) fn record(self, guest: &Guest) -> MachineRecord {
        let uuid = self.adopted.as_ref().and_then(|target| target.id.clone());
        MachineRecord {
            name: self.name,
            id: MachineId { uuid, ..MachineId::default() },
            place: self.place,
            dir: self.dir,
            adopted: self.adopted,
            backend: guest.backend.clone(),
            guest: guest.id.clone(),
            address: None,
            host_key: None,
            console: None,
            kept: None,
        }
    }
}

/// Waits until no other guest, of this run or of another, is about to adopt; the flock ends with the file.
async fn only_one(state: &Path) -> Result<File> {
    let path = state.join("adopting");
    let cannot = |e: io::Error| Fault::host(format!("cannot lock `{}`", path.display())).because(e);
    let file = files::open_private(&path).map_err(cannot)?;
    let taken = async {
        while !lockdir::try_flock(&file)? {
            clock::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    let late = || Err(io::Error::new(io::ErrorKind::TimedOut, "another vmdeck holds it"));
    clock::within(ALONE, taken).await.unwrap_or_else(late).map_err(cannot)?;
    Ok(file)
}

/// Refuses a machine that is in use: two guests in one machine would spoil each other's tests, and the first to end would
/// stop it under the other.
fn refuse_if_used(context: &RunContext, guest: &Guest, wanted: &AdoptTarget) -> Result<()> {
    let same = |record: &&MachineRecord| {
        let other = record.adopted.as_ref();
        record.backend == guest.backend && other.is_some_and(|other| other.id == wanted.id && other.name == wanted.name)
    };
    for (state, alive) in reap::journal_states_alive(&context.backend.state) {
        if let Some(record) = state.open.values().chain(state.kept.values()).find(same) {
            let mine = state.run == context.plan.run.as_str();
            let whose = if mine { "this run".to_owned() } else { format!("run {}", state.run) };
            let (what, hint) = if alive {
                ("uses it", "wait for that run, or give each guest a machine of its own")
            } else {
                ("kept it, or left it behind", "`vmdeck cleanup` puts it back")
            };
            return Err(Fault::host(format!("cannot adopt `{}` for guest `{}`", wanted.name, guest.id))
                .because(format!("guest `{}` of {whose} {what}", record.guest))
                .hint(hint)
                .permanent());
        }
    }
    Ok(())
}
