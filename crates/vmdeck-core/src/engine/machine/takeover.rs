//! Gives a guest the machine that an earlier run kept for it: the journal of that run hands it over to ours.
//!
//! It stays kept: if this run dies, nobody takes away what a person wanted to stay.

use super::{
    LeasedMachine,
    connection::GuestConnection,
    fingerprint::fingerprint,
    preparation::{controller, prepare_record},
};
use crate::{
    backend::{
        self,
        contract::Machine,
        record::{KeptMachine, MachineRecord},
        request::{CreateRequest, Lifetime},
    },
    context::CallContext,
    engine::{
        cleanup,
        context::RunContext,
        journal::{self, Record},
        reap,
    },
    transport::pin::Pin,
};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::EventKind,
    guest::{Fresh, Guest},
    ids::short_run,
};

/// How long taking a machine over may take.
const TAKE: Duration = Duration::from_secs(30);
/// The files of a guest's folder that its machine goes on to write, or that tell how it was made.
const FILES: [&str; 3] = ["console.log", "qemu.log", "qemu.cmd"];

/// A machine that was kept for a guest.
struct KeptGuest {
    journal: PathBuf,
    machine: MachineRecord,
}

/// Returns whether there is a machine for this guest of a config, made from what the guest is now.
pub(in crate::engine) fn is_there(state: &Path, folder: &Path, guest: &Guest) -> bool {
    let wanted = fingerprint(guest);
    guest.fresh == Fresh::Run && kept(state, folder, guest).iter().any(|kept| kept.is_same(&wanted))
}

/// Returns the machines of this guest that no live run has, the newest first.
fn kept(state: &Path, folder: &Path, guest: &Guest) -> Vec<KeptGuest> {
    let mut found = Vec::new();
    for (journal, kept) in reap::ended(state) {
        let written = fs::metadata(&journal).and_then(|about| about.modified()).ok();
        let is_ours = |machine: &MachineRecord| {
            kept.folder == folder && machine.guest == guest.id && machine.backend == guest.backend
        };
        let machines = kept.kept.into_values().filter(is_ours);
        found.extend(machines.map(|machine| (written, KeptGuest { journal: journal.clone(), machine })));
    }
    found.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
    found.into_iter().map(|(_, kept)| kept).collect()
}

impl KeptGuest {
    fn is_same(&self, fingerprint: &str) -> bool {
        self.machine.kept.as_ref().is_some_and(|kept| kept.fingerprint == fingerprint)
    }
}

/// Returns the machine that was kept for a guest; `None` = there is none that can be used, and why is said.
pub(super) async fn take_over(context: &RunContext, guest: &Arc<Guest>) -> Option<LeasedMachine> {
    let wanted = fingerprint(guest);
    let all = kept(&context.backend.state, &context.plan.folder, guest);
    if all.is_empty() {
        let text = why_none(context, guest);
        context.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
    }
    for kept in all {
        let fault = if kept.is_same(&wanted) {
            match take(context, guest, &kept).await {
                Ok(machine) => return Some(machine),
                // Another one is not wanted either.
                Err(fault) if fault.blame() == Blame::Cancelled => return None,
                Err(fault) => fault,
            }
        } else {
            Fault::infra("it was made from another config of the guest")
        };
        let text =
            format!("guest `{}`: the machine `{}`, which was kept, is not used: {fault}", guest.id, kept.machine.name);
        context.events.warn(Some(&guest.id), text, Some(format!("`vmdeck down {}` removes it", guest.id)));
    }
    None
}

/// Returns why a guest gets a new machine.
fn why_none(context: &RunContext, guest: &Guest) -> String {
    let in_use = cleanup::kept_in_use(&context.backend.state, &context.plan.folder);
    match in_use.iter().find(|(machine, _)| machine.guest == guest.id) {
        Some((_, run)) => format!("a new machine: run {} uses the one that is kept", short_run(run)),
        None => format!("a new machine: none is kept (`vmdeck keep {}` keeps one up)", guest.id),
    }
}

async fn take(context: &RunContext, guest: &Arc<Guest>, kept: &KeptGuest) -> Result<LeasedMachine> {
    let name = kept.machine.name.clone();
    let gone = || Fault::infra(format!("cannot use `{name}` again")).because("another run has it by now");
    // Held until the machine is ours by our own journal, too.
    let (mut journal, before) = reap::claim(&context.backend.state, &kept.journal).await.ok_or_else(gone)?;
    let record = before.kept.get(&name).ok_or_else(gone)?;
    let mut facts = record.kept.clone().ok_or_else(gone)?;
    facts.uses += 1;
    let record_dir = context.guest_dir(guest);
    prepare_record(&record_dir)?;
    bring_files(&before.dir.join("guests").join(guest.id.as_str()), &record_dir)?;
    let machine = reattach(context, guest, record, &record_dir).await?;
    enter(context, record, machine.as_ref(), &facts)?;
    // From here on it is in our journal alone; if this cannot be written, in both, and whoever looks finds it once.
    let gone = Record::Gone { name: name.clone(), proof: format!("handed over to run {}", context.plan.run) };
    let handed = journal::line(&gone).and_then(|line| journal.write_all(line.as_bytes()));
    if handed.is_ok() && before.open.is_empty() && before.kept.len() == 1 {
        let _ = fs::remove_file(&kept.journal);
    }
    drop(journal);
    let connection = GuestConnection::new(context, guest, None, None).of_kept(Pin::of(record.host_key.clone()));
    let console = connection.console_watch();
    let mut controller = controller(context, guest, &name, connection);
    let (exit, restarts) = (machine.exit(), machine.restarts());
    controller.take_over(machine);
    context.events.send(EventKind::Reused {
        guest: guest.id.clone(),
        machine: name.clone(),
        run: before.run.clone(),
        times: facts.uses - 1,
    });
    if let Err(fault) = controller.start(&context.cancel).await {
        // What it is good for is a person's to say.
        if let Some(machine) = controller.detach() {
            machine.detach();
        }
        return Err(fault);
    }
    Ok(LeasedMachine::new(name, controller, exit, console, restarts).of_kept(facts))
}

/// Gives the record of this run the files of the machine: under another name for the same bytes, since it goes on to write them.
fn bring_files(from: &Path, to: &Path) -> Result<()> {
    for name in FILES {
        let (from, to) = (from.join(name), to.join(name));
        if !from.exists() {
            continue;
        }
        // Of a machine that this run had before; its console was set aside.
        let _ = fs::remove_file(&to);
        fs::hard_link(&from, &to).map_err(|e| {
            Fault::infra(format!("cannot bring `{}` into the record", from.display()))
                .because(e)
                .hint("keep the records of runs on one file system")
        })?;
    }
    Ok(())
}

async fn reattach(
    context: &RunContext,
    guest: &Guest,
    record: &MachineRecord,
    record_dir: &Path,
) -> Result<Box<dyn Machine>> {
    let backend = (backend::find(&guest.backend)?.build)(&context.backend);
    let request = CreateRequest {
        guest,
        name: &record.name,
        uuid: record.id.uuid.as_deref().unwrap_or_default(),
        private_dir: &record.dir,
        record_dir,
        lifetime: Lifetime::MayOutliveUs,
        services: &[],
        network: None,
        freezable: false,
        memory: None,
    };
    let call = CallContext::new(TAKE, &context.cancel);
    let taken = call.run("take the machine over", backend.take_over(request, record, call)).await?;
    taken.ok_or_else(|| {
        Fault::infra(format!("cannot use `{}` again", record.name))
            .because(format!("the backend `{}` cannot take machines over", guest.backend))
    })
}

/// Writes the machine into the journal of this run, as one that is kept.
fn enter(context: &RunContext, record: &MachineRecord, machine: &dyn Machine, facts: &KeptMachine) -> Result<()> {
    let MachineRecord { name, place, dir, adopted, backend, guest, address, host_key, console, .. } = record.clone();
    let entries = [
        Record::Intent { name: name.clone(), backend, guest, dir, identity: machine.id(), adopted, place },
        Record::Known { name: name.clone(), identity: machine.id(), console },
        Record::Reached { name: name.clone(), address, host_key: host_key.clone() },
        Record::Kept { name, address, host_key, kept: Some(facts.clone()) },
    ];
    entries.iter().try_for_each(|entry| context.journal.append(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_bytes_under_another_name() {
        let home = tempfile::tempdir().expect("tempdir");
        let (from, to) = (home.path().join("old"), home.path().join("new"));
        fs::create_dir_all(&from).expect("mkdir");
        fs::create_dir_all(&to).expect("mkdir");
        fs::write(from.join("console.log"), "boot\n").expect("write");
        fs::write(to.join("console.log"), "of another machine\n").expect("write");
        bring_files(&from, &to).expect("linked");
        fs::File::options()
            .append(true)
            .open(from.join("console.log"))
            .expect("open")
            .write_all(b"later\n")
            .expect("write");
        assert_eq!(fs::read_to_string(to.join("console.log")).expect("read"), "boot\nlater\n");
        bring_files(&home.path().join("none"), &to).expect("a machine without files");
    }
}
