//! Destroys exactly what dead runs left: what their journals name, and what shows their marks.
//!
//! Two proofs are needed for each: the journal of a run whose flock is free, and the live object's own name and id. Who is
//! alive is the kernel's word, never an age or a pid.

use super::{
    journal::{self, Journal, JournalState, Record},
    lock,
};
use crate::{
    backend::{
        self, BackendDeps,
        proof::Proof,
        record::{AdoptTarget, MachineRecord},
    },
    context::CallContext,
    host::{clock, failpoint, files, lockdir, pids},
};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault},
    ids::{GuestId, is_machine_name},
};

/// The control socket in a run's record.
pub const CONTROL: &str = "control.sock";
/// How long a reaper waits for the guardian of a run whose main process is dead.
const GUARDIAN: Duration = Duration::from_secs(20);
/// How long one machine may take.
const ONE: Duration = Duration::from_mins(2);

/// What a reaper removes or puts back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReapScope<'a> {
    /// Only what dead runs left unintentionally.
    Dead,
    /// What dead runs left, and what runs that have ended kept on purpose.
    Kept,
    /// What dead runs left, and what was kept for these guests of the config in this folder.
    KeptFor(&'a Path, &'a [GuestId]),
}

impl ReapScope<'_> {
    /// Returns whether a machine that a run kept is taken as well.
    fn takes(self, folder: &Path, kept: &MachineRecord) -> bool {
        match self {
            ReapScope::Dead => false,
            ReapScope::Kept => true,
            ReapScope::KeptFor(of, guests) => folder == of && guests.contains(&kept.guest),
        }
    }
}

/// What became of one leftover.
#[derive(Clone, Debug)]
pub enum Reaped {
    /// The leftover is proven gone.
    Gone {
        /// The run that made it.
        run: String,
        /// The name of the leftover.
        what: String,
        /// How its absence was proven.
        how: String,
        /// Whether it was somebody else's machine that was put back.
        adopted: bool,
    },
    /// The leftover may still be there.
    Left {
        /// The name of the leftover, or of the journal.
        what: String,
        /// Why it could not be removed.
        fault: Fault,
    },
}

/// Something that a reaper would remove or put back.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// The run that made it.
    pub run: String,
    /// The machine, as the journal describes it.
    pub made: MachineRecord,
    /// Whether it was kept on purpose.
    pub kept: bool,
    /// The size of its folder in bytes.
    pub size: u64,
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MachineRecord { name: machine, backend, guest, adopted, .. } = &self.made;
        let kept = if self.kept { ", kept on purpose" } else { "" };
        let run = &self.run;
        if let Some(AdoptTarget { name, .. }) = adopted {
            return write!(
                f,
                "{name} ({backend}), adopted by guest `{guest}`, run {run}{kept}: will be put back to how it was"
            );
        }
        let size = vmdeck_model::quantity::show_size(self.size);
        write!(f, "{machine} ({backend}) of guest `{guest}`, run {run}{kept}: {size}")
    }
}

/// Returns every journal that can be read.
pub fn journal_states(state: &Path) -> impl Iterator<Item = JournalState> {
    journals(state).into_iter().filter_map(|path| journal::read(&path).ok())
}

/// Returns every journal that can be read, and whether its run, or the guardian, is alive.
pub(super) fn journal_states_alive(state: &Path) -> impl Iterator<Item = (JournalState, bool)> {
    journals(state).into_iter().filter_map(|path| {
        let state = journal::read(&path).ok()?;
        let alive = vmdeck_files::open(&path).and_then(|f| lockdir::try_flock(&f)).is_ok_and(|free| !free);
        Some((state, alive))
    })
}

/// Returns every journal.
pub fn journals(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(Journal::folder(state)).into_iter().flatten().flatten();
    let mut out: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "journal")).collect();
    out.sort();
    out
}

/// Returns the folders of the records of the runs that are alive.
pub fn live_records(state: &Path) -> impl Iterator<Item = PathBuf> {
    journal_states_alive(state).filter(|(_, alive)| *alive).map(|(state, _)| state.dir)
}

/// Returns the journals of runs that are not alive, as far as they can be read.
pub(super) fn ended(state: &Path) -> impl Iterator<Item = (PathBuf, JournalState)> {
    journals(state).into_iter().filter_map(|path| {
        let file = vmdeck_files::open(&path).ok()?;
        let is_free = matches!(lockdir::try_flock(&file), Ok(true));
        let state = journal::read(&path).ok()?;
        is_free.then_some((path, state))
    })
}

/// Returns the journal of a run that has ended, to be added to, with what it says; while the file is open nobody else can have it.
/// `None` = it is not to be had, or not to be believed.
pub(super) async fn claim(state: &Path, path: &Path) -> Option<(File, JournalState)> {
    let mut file = vmdeck_files::open_for_append(path).ok()?;
    if files::owned_by_another(&file).is_some() || !become_sole_owner(path, &file).await {
        return None;
    }
    let said = journal::read_open(&mut file).ok()?;
    journal::mend(&mut file).ok()?;
    let machines = said.open.values().chain(said.kept.values());
    let believed = machines.into_iter().all(|made| is_plausible(state, made));
    believed.then_some((file, said))
}

/// Returns what the journals of dead runs name; nothing is touched.
pub fn leftovers(state: &Path) -> Vec<Leftover> {
    let mut out = Vec::new();
    for (_, state) in ended(state) {
        let all = state.open.values().map(|m| (m, false)).chain(state.kept.values().map(|m| (m, true)));
        for (made, kept) in all {
            let size = files::disk_usage(&made.dir);
            out.push(Leftover { run: state.run.clone(), made: made.clone(), kept, size });
        }
    }
    out
}

/// Reaps every dead run. A run that is alive is left alone, however old it is.
pub async fn dead_runs(deps: &BackendDeps, scope: ReapScope<'_>, told: &mut (dyn FnMut(Reaped) + Send)) {
    journal::sweep_fresh(&deps.state);
    for path in journals(&deps.state) {
        match vmdeck_files::open_for_append(&path) {
            Ok(file) => reap_if_dead(deps, scope, &path, file, told).await,
            // Another reaper was faster.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => told(Reaped::Left {
                what: path.display().to_string(),
                fault: Fault::host("cannot open the journal").because(e),
            }),
        }
    }
}

async fn reap_if_dead(
    deps: &BackendDeps,
    scope: ReapScope<'_>,
    path: &Path,
    mut file: File,
    told: &mut (dyn FnMut(Reaped) + Send),
) {
    if let Some(user) = files::owned_by_another(&file) {
        let fault = Fault::new(Blame::Leftover, "cannot trust the journal")
            .because(format!("it belongs to user `{user}`"))
            .hint("let that user run `vmdeck cleanup`, or set XDG_STATE_HOME to a folder of your own");
        told(Reaped::Left { what: path.display().to_string(), fault });
        return;
    }
    if !become_sole_owner(path, &file).await {
        return;
    }
    let state = match journal::read_open(&mut file) {
        Ok(state) => state,
        Err(e) => {
            let fault = Fault::new(Blame::Leftover, "cannot trust the journal")
                .because(e)
                .hint("inspect it, remove by hand what it names, then remove the journal");
            told(Reaped::Left { what: path.display().to_string(), fault });
            return;
        }
    };
    // If it cannot be mended the records below are lost, and the next reaper proves everything once more.
    let _ = journal::mend(&mut file);
    let (kept, staying): (Vec<_>, Vec<_>) = state.kept.values().partition(|made| scope.takes(&state.folder, made));
    let mut all_gone = staying.is_empty();
    for made in state.open.values().chain(kept) {
        let reaped = take(deps, &state, made, &file).await;
        all_gone &= matches!(reaped, Reaped::Gone { .. });
        told(reaped);
    }
    if let Some(lock) = &state.lock {
        // Alive means that somebody else has it by now, which is fine.
        let _ = lock::break_dead(lock, false);
        lock::sweep_private(lock);
    }
    if all_gone {
        let _ = fs::remove_file(path);
    }
}

/// Takes the flock of a journal; waits for the guardian where the main process is dead.
async fn become_sole_owner(path: &Path, file: &File) -> bool {
    let taken = || matches!(lockdir::try_flock(file), Ok(true));
    if taken() {
        // A journal that was removed meanwhile is nobody's any more.
        return path.exists();
    }
    let main = journal::read(path).ok().and_then(|h| h.process);
    let Some((pid, started)) = main else { return false };
    if pids::lookup(pid).is_some_and(|p| p.started == started) {
        return false;
    }
    let freed = async {
        while !taken() {
            clock::sleep(Duration::from_millis(20)).await;
        }
    };
    clock::within(GUARDIAN, freed).await.is_some() && path.exists()
}

/// Returns whether a machine's name and folder are as vmdeck makes them: a journal can be written by a hostile hand, and what a
/// reaper removes must never be chosen by it.
fn is_plausible(state: &Path, made: &MachineRecord) -> bool {
    is_machine_name(&made.name) && made.dir == machine_folder(state, &made.name)
}

/// Returns the private folder of the machine of this name.
pub(super) fn machine_folder(state: &Path, name: &str) -> PathBuf {
    state.join("machines").join(name)
}

async fn take(deps: &BackendDeps, state: &JournalState, made: &MachineRecord, mut file: &File) -> Reaped {
    let what = made.provider_name().to_owned();
    if !is_plausible(&deps.state, made) {
        let fault = Fault::new(Blame::Leftover, "cannot believe the journal")
            .because(format!(
                "it names `{}` and the folder `{}`, which vmdeck never makes",
                made.name,
                made.dir.display()
            ))
            .hint("nothing of it was touched; inspect it, and remove the journal by hand");
        return Reaped::Left { what, fault };
    }
    // With the tools of the run that made it: they may be others than ours.
    let tools = if state.tools.is_empty() { deps.tools.clone() } else { state.tools.clone() };
    let deps = BackendDeps { tools, ..deps.clone() };
    let reaped = match backend::find(&made.backend) {
        Ok(row) => {
            let never = CancellationToken::new();
            failpoint::pass("reap-begin");
            let proof = (row.build)(&deps).reap(made, CallContext::new(ONE, &never)).await;
            failpoint::pass("reap-done");
            proof
        }
        Err(fault) => Proof::Unknown(fault),
    };
    match reaped.into_result() {
        Ok(how) => {
            let line = journal::line(&Record::Gone { name: made.name.clone(), proof: how.clone() });
            // If it cannot be written the next reaper proves it once more, which does no harm.
            let _ = line.and_then(|line| file.write_all(line.as_bytes()));
            failpoint::pass("reap-written");
            Reaped::Gone { run: state.run.clone(), what, how, adopted: made.adopted.is_some() }
        }
        Err(fault) => Reaped::Left { what, fault },
    }
}

/// Removes the control socket of a run that has died, on which nobody listens any more.
fn close_control(record: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let file = record.join(CONTROL);
    let about = fs::symlink_metadata(&file);
    if about.is_ok_and(|about| about.file_type().is_socket() || about.file_type().is_symlink()) {
        let _ = fs::remove_file(file);
    }
}

/// Reaps one journal whose flock the caller holds already: the guardian's work. Returns whether another attempt is
/// useless: all is gone, or the journal cannot be read.
pub(super) async fn one(deps: &BackendDeps, path: &Path) -> bool {
    let Ok(state) = journal::read(path) else { return true };
    close_control(&state.dir);
    let Ok(mut file) = vmdeck_files::open_for_append(path) else { return true };
    let _ = journal::mend(&mut file);
    let mut open_gone = true;
    for made in state.open.values() {
        open_gone &= matches!(take(deps, &state, made, &file).await, Reaped::Gone { .. });
    }
    if open_gone && state.kept.is_empty() {
        let _ = fs::remove_file(path);
    }
    open_gone
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use crate::{backend::record::MachineId, host::process::Spawner};
    use std::collections::BTreeMap;

    fn deps(state: &Path) -> BackendDeps {
        BackendDeps {
            spawner: Spawner::new(None).expect("spawner"),
            state: state.to_owned(),
            tools: backend::Tools::new(),
            images: crate::assets::image::store::ImageStore::unused(),
            snapshots: crate::assets::snapshot::store::SnapshotStore::unused(),
        }
    }

    fn intend(journal: &Journal, state: &Path, name: &str) -> PathBuf {
        let dir = state.join("machines").join(name);
        fs::create_dir_all(&dir).expect("mkdir");
        fs::write(dir.join("overlay.qcow2"), vec![1; 9000]).expect("overlay");
        let identity = MachineId { uuid: Some(format!("uuid-of-{name}")), ..MachineId::default() };
        let guest = GuestId::new("deb").expect("name");
        journal
            .append(&Record::Intent {
                name: name.into(),
                backend: "qemu".into(),
                guest,
                dir: dir.clone(),
                identity,
                adopted: None,
                place: BTreeMap::new(),
            })
            .expect("intent");
        dir
    }

    /// Returns a process that looks like QEMU to whoever reads its argument list.
    fn pretender(name: &str, uuid: &str) -> std::process::Child {
        use std::os::unix::process::CommandExt;
        let script = "read x";
        let mut command = std::process::Command::new("/bin/sh");
        command.arg0("/usr/bin/qemu-system-x86_64").args(["-c", script, "-name", name, "-uuid", uuid]);
        command.stdin(Stdio::piped()).spawn().expect("sh")
    }
    use std::process::Stdio;

    async fn reap(state: &Path, scope: ReapScope<'_>) -> Vec<Reaped> {
        let mut out = Vec::new();
        dead_runs(&deps(state), scope, &mut |r| out.push(r)).await;
        out
    }

    /// The run ends; waits until no process that another test is just starting holds a copy of the flock.
    async fn die(journal: Journal) {
        let path = journal.path().to_owned();
        drop(journal);
        while !File::open(&path).and_then(|f| lockdir::try_flock(&f)).expect("journal") {
            clock::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn exactly_what_the_dead_run_left_is_taken() {
        let home = tempfile::tempdir().expect("tempdir");
        let state = home.path();
        let journal = Journal::begin(state, "r1", None, Path::new("/d"), Path::new("/p")).expect("begun");
        let dir = intend(&journal, state, "vmdeck-0000000a-00000001");
        let stranger_dir = state.join("machines/somebody-elses");
        fs::create_dir_all(&stranger_dir).expect("mkdir");
        let mut ours = pretender("vmdeck-0000000a-00000001", "uuid-of-vmdeck-0000000a-00000001");
        // The right name with another id, and the right id with another name: one proof is none.
        let mut name_only = pretender("vmdeck-0000000a-00000001", "another-uuid");
        let mut id_only = pretender("vmdeck-0000000a-00000002", "uuid-of-vmdeck-0000000a-00000001");

        assert!(reap(state, ReapScope::Kept).await.is_empty(), "a live run is left alone");
        assert_eq!(leftovers(state).len(), 0);
        die(journal).await;
        assert_eq!(leftovers(state).len(), 1);
        assert!(leftovers(state)[0].size >= 9000);

        let reaped = reap(state, ReapScope::Dead).await;
        assert!(matches!(&reaped[..], [Reaped::Gone { what, .. }] if what == "vmdeck-0000000a-00000001"), "{reaped:?}");
        assert!(!dir.exists() && stranger_dir.exists());
        ours.wait().expect("killed");
        assert!(pids::lookup(name_only.id()).is_some() && pids::lookup(id_only.id()).is_some());
        assert!(journals(state).is_empty());
        assert!(reap(state, ReapScope::Dead).await.is_empty(), "twice is harmless");
        for child in [&mut name_only, &mut id_only] {
            child.kill().expect("kill");
            child.wait().expect("collected");
        }
    }

    #[tokio::test]
    async fn kept_machines_go_only_when_asked_for() {
        let home = tempfile::tempdir().expect("tempdir");
        let journal = Journal::begin(home.path(), "r1", None, Path::new("/d"), Path::new("/p")).expect("begun");
        let dir = intend(&journal, home.path(), "vmdeck-0000000a-00000001");
        journal
            .append(&Record::Kept {
                name: "vmdeck-0000000a-00000001".into(),
                address: None,
                host_key: None,
                kept: None,
            })
            .expect("kept");
        die(journal).await;
        assert!(reap(home.path(), ReapScope::Dead).await.is_empty() && dir.exists());
        let guest = [GuestId::new("deb").expect("name")];
        let other = [GuestId::new("mars").expect("name")];
        for (folder, guests) in [("/p", &other), ("/elsewhere", &guest)] {
            let scope = ReapScope::KeptFor(Path::new(folder), guests);
            assert!(reap(home.path(), scope).await.is_empty() && dir.exists(), "{scope:?}");
        }
        assert_eq!(reap(home.path(), ReapScope::KeptFor(Path::new("/p"), &guest)).await.len(), 1);
        assert!(!dir.exists() && journals(home.path()).is_empty());
    }

    #[tokio::test]
    async fn what_a_hostile_journal_names_is_not_touched() {
        let home = tempfile::tempdir().expect("tempdir");
        let (state, precious) = (home.path().join("state"), home.path().join("precious"));
        fs::create_dir_all(&precious).expect("mkdir");
        let good = "vmdeck-0000000a-00000001";
        let cases = [
            (good, precious.clone()),
            (good, state.join("machines")),
            (good, state.join("machines").join(good).join("../../../precious")),
            (good, state.join("machines/vmdeck-0000000a-00000002")),
            ("precious", state.join("machines/precious")),
            ("../../precious", state.join("machines/../../precious")),
            ("vmdeck-0000000a-0000000g", state.join("machines/vmdeck-0000000a-0000000g")),
        ];
        for (name, dir) in cases {
            fs::create_dir_all(&dir).expect("mkdir");
            let journal = Journal::begin(&state, "r1", None, Path::new("/d"), Path::new("/p")).expect("begun");
            let (guest, identity) = (GuestId::new("g").expect("name"), MachineId::default());
            let name = name.to_owned();
            let backend = "local".to_owned();
            journal
                .append(&Record::Intent {
                    name,
                    backend,
                    guest,
                    dir: dir.clone(),
                    identity,
                    adopted: None,
                    place: BTreeMap::new(),
                })
                .expect("intent");
            let path = journal.path().to_owned();
            die(journal).await;
            let reaped = reap(&state, ReapScope::Kept).await;
            assert!(matches!(&reaped[..], [Reaped::Left { .. }]), "{}: {reaped:?}", dir.display());
            assert!(dir.exists() && path.exists(), "{}", dir.display());
            fs::remove_file(path).expect("rm");
        }
    }

    #[tokio::test]
    async fn a_journal_of_another_user_is_told_and_not_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().expect("tempdir");
        let journal = Journal::begin(home.path(), "r1", None, Path::new("/d"), Path::new("/p")).expect("begun");
        let dir = intend(&journal, home.path(), "vmdeck-0000000a-00000001");
        let path = journal.path().to_owned();
        die(journal).await;
        std::os::unix::fs::chown(&path, Some(65534), None).expect("chown");
        let reaped = reap(home.path(), ReapScope::Kept).await;
        assert!(matches!(&reaped[..], [Reaped::Left { fault, .. }] if fault.to_string().contains("belongs to user")));
        assert!(dir.exists() && path.exists());
    }

    #[tokio::test]
    async fn a_damaged_journal_destroys_nothing_and_is_told() {
        let home = tempfile::tempdir().expect("tempdir");
        let journal = Journal::begin(home.path(), "r1", None, Path::new("/d"), Path::new("/p")).expect("begun");
        let dir = intend(&journal, home.path(), "vmdeck-0000000a-00000001");
        let path = journal.path().to_owned();
        die(journal).await;
        let mut bytes = fs::read(&path).expect("journal");
        bytes[3] ^= 1;
        fs::write(&path, bytes).expect("damaged");
        assert!(matches!(&reap(home.path(), ReapScope::Kept).await[..], [Reaped::Left { .. }]));
        assert!(dir.exists() && path.exists());
    }
}
