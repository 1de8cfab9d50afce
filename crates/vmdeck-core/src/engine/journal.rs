//! The write-ahead list of what this run makes: durable before the provider hears of it, closed only by a proof.
//!
//! One file for each run in the state folder, never in /tmp: a machine may outlive a restart of the host. Its flock is
//! held while the run, or its guardian, lives; a free flock is the kernel's word that the run is dead.
//!
//! Format: a line for each record, `CRC32 SPACE JSON`. A torn last line is ignored; a bad line before others means that the
//! file cannot be trusted, and then nothing is destroyed on its word.

use crate::{
    backend::{
        Tools,
        record::{AdoptTarget, KeptMachine, MachineId, MachineRecord},
    },
    host::{failpoint, files, lockdir},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};
use vmdeck_model::{
    error::{Fault, Result},
    ids::GuestId,
};

/// The version of the records; a file of a newer one is not touched.
const VERSION: u32 = 3;

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Record {
    /// The first record: the run itself.
    Run {
        /// The version of the file.
        version: u32,
        /// The run.
        run: String,
        /// The main process.
        pid: u32,
        /// When the main process began, in seconds since 1970: with the pid this names a process.
        started: u64,
        /// The host lock that the run holds.
        lock: Option<PathBuf>,
        /// The folder of the run's record.
        dir: PathBuf,
        /// The folder of the config, to which the run's machines belong.
        #[serde(default)]
        folder: PathBuf,
    },
    /// The tools of the run: a reaper may be configured otherwise.
    Tools {
        /// See [`Tools`].
        tools: Tools,
    },
    /// Something is about to be made.
    Intent {
        /// The generated name.
        name: String,
        /// The backend.
        backend: String,
        /// The guest that the machine is for.
        guest: GuestId,
        /// The private folder.
        dir: PathBuf,
        /// The ids by which the machine will be recognised.
        identity: MachineId,
        /// The machine of others that is about to be used instead.
        #[serde(default)]
        adopted: Option<AdoptTarget>,
        /// Where the backend will look for it, in its own words.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        place: BTreeMap<String, String>,
    },
    /// The machine exists, or runs: what is known for sure now.
    Known {
        /// The generated name.
        name: String,
        /// What is known about it.
        identity: MachineId,
        /// The socket of its serial console, for a person who types.
        #[serde(default)]
        console: Option<PathBuf>,
    },
    /// The machine can be reached.
    Reached {
        /// The generated name.
        name: String,
        /// The address of the login service.
        address: Option<std::net::SocketAddr>,
        /// The host key that the machine showed.
        host_key: Option<String>,
    },
    /// The machine is proven gone.
    Gone {
        /// The generated name.
        name: String,
        /// How its absence was proven.
        proof: String,
    },
    /// The machine was kept on a person's wish; only a person removes it.
    Kept {
        /// The generated name.
        name: String,
        /// The address of the login service.
        address: Option<std::net::SocketAddr>,
        /// The host key that the machine showed.
        #[serde(default)]
        host_key: Option<String>,
        /// What it was made from, and how often it was used.
        #[serde(default)]
        kept: Option<KeptMachine>,
    },
    /// The run ended normally.
    End,
}

impl Record {
    /// Returns the names of the steps before and after it is written.
    fn steps(&self) -> (&'static str, &'static str) {
        match self {
            Record::Run { .. } => ("run-begin", "run-written"),
            Record::Tools { .. } => ("tools-begin", "tools-written"),
            Record::Intent { .. } => ("intent-begin", "intent-written"),
            Record::Known { .. } => ("known-begin", "known-written"),
            Record::Reached { .. } => ("reached-begin", "reached-written"),
            Record::Gone { .. } => ("gone-begin", "gone-written"),
            Record::Kept { .. } => ("kept-begin", "kept-written"),
            Record::End => ("end-begin", "end-written"),
        }
    }
}

/// A journal that is being written.
#[derive(Clone, Debug)]
pub struct Journal {
    file: Arc<Mutex<File>>,
    path: PathBuf,
}

impl Journal {
    /// Returns the folder of all journals below the state folder.
    pub fn folder(state: &Path) -> PathBuf {
        state.join("runs")
    }

    /// Begins a journal for this process. Fails where nothing can be made durable: then nothing may be made at all.
    pub fn begin(state: &Path, run: &str, lock: Option<&Path>, dir: &Path, folder: &Path) -> Result<Self> {
        let journals = Self::folder(state);
        let path = journals.join(format!("{run}.journal"));
        let cannot = |e: io::Error| {
            Fault::host(format!("cannot write the journal `{}`", path.display()))
                .because(e)
                .hint("vmdeck makes nothing that it could not clean up; free disk space, or set XDG_STATE_HOME to a writable folder")
        };
        files::private_dir(&journals).map_err(cannot)?;
        // Under a name that a reaper only sweeps, until it is locked and says whose it is.
        let fresh = FreshJournal::make(journals.join(format!("{run}.{FRESH}"))).map_err(cannot)?;
        let journal = Self { file: Arc::new(Mutex::new(fresh.file.try_clone().map_err(cannot)?)), path: path.clone() };
        let pid = crate::host::pids::current();
        let started = crate::host::pids::lookup(pid).map_or(0, |p| p.started);
        journal.append(&Record::Run {
            version: VERSION,
            run: run.into(),
            pid,
            started,
            lock: lock.map(Path::to_owned),
            dir: dir.to_owned(),
            folder: folder.to_owned(),
        })?;
        fresh.publish(&path).map_err(cannot)?;
        // The name itself must survive a power loss too.
        File::open(&journals).and_then(|dir| dir.sync_all()).map_err(cannot)?;
        Ok(journal)
    }

    /// Writes a record; it is on the disk when this returns.
    pub fn append(&self, record: &Record) -> Result<()> {
        let cannot = |e: io::Error| {
            Fault::host(format!("cannot write the journal `{}`", self.path.display()))
                .because(e)
                .hint("vmdeck makes nothing that it could not clean up; free disk space first")
        };
        let line = line(record).map_err(cannot)?;
        let mut file = self.file.lock();
        let before = file.metadata().map(|m| m.len());
        let (begun, done) = record.steps();
        failpoint::reach(begun)
            .and_then(|()| file.write_all(line.as_bytes()))
            .and_then(|()| file.sync_data())
            .map_err(|e| {
                // Half a record must not stand before later ones.
                let _ = before.and_then(|length| file.set_len(length));
                cannot(e)
            })?;
        failpoint::pass(done);
        Ok(())
    }

    /// Returns a copy of its descriptor: whoever holds it keeps the run alive for all reapers.
    pub fn share(&self) -> io::Result<OwnedFd> {
        let file = self.file.lock();
        Ok(file.try_clone()?.into())
    }

    /// Returns the path of the journal.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that the run ended: the file is removed, unless something is left open or kept.
    pub fn end(&self) -> Result<()> {
        self.append(&Record::End)?;
        let state = read(&self.path).map_err(|e| Fault::bug("cannot read the journal back").because(e))?;
        if state.open.is_empty() && state.kept.is_empty() {
            fs::remove_file(&self.path)
                .map_err(|e| Fault::host(format!("cannot remove `{}`", self.path.display())).because(e))?;
        }
        Ok(())
    }
}

/// The ending of the name of a journal that is being begun.
const FRESH: &str = "new";

/// How often a journal is made again that a reaper swept in the moment before it was locked.
const TRIES: usize = 10;

/// A journal that nobody knows yet; it goes when it is dropped.
struct FreshJournal {
    path: PathBuf,
    file: File,
    is_known: bool,
}

impl FreshJournal {
    fn make(path: PathBuf) -> io::Result<Self> {
        for _ in 0..TRIES {
            let file = vmdeck_files::create_new(&path)?;
            // Somebody who sweeps locks it first.
            if lockdir::try_flock(&file)? && path.exists() {
                return Ok(Self { path, file, is_known: false });
            }
        }
        Err(io::Error::other("it is taken away again and again"))
    }

    /// Gives it the name by which reapers know it.
    fn publish(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.is_known = true;
        Ok(())
    }
}

impl Drop for FreshJournal {
    fn drop(&mut self) {
        if !self.is_known {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the journals that runs which are dead were about to begin: nothing was made by their word.
pub(super) fn sweep_fresh(state: &Path) {
    let entries = fs::read_dir(Journal::folder(state)).into_iter().flatten().flatten();
    let fresh = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == FRESH));
    for path in fresh {
        let Ok(file) = vmdeck_files::open(&path) else { continue };
        if matches!(lockdir::try_flock(&file), Ok(true)) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Cuts a torn last record off, so that others can follow; the caller holds the flock.
pub(super) fn mend(file: &mut File) -> io::Result<()> {
    let bytes = all(file)?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() { file.set_len(whole as u64) } else { Ok(()) }
}

fn all(file: &mut File) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    vmdeck_files::read_open(file, vmdeck_files::LARGE)
}

/// Returns a record as it is written; an error for a path that is no text.
pub(super) fn line(record: &Record) -> io::Result<String> {
    let json = serde_json::to_string(record)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

/// The contents of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalState {
    /// The run.
    pub run: String,
    /// The pid of the main process, and when it began.
    pub process: Option<(u32, u64)>,
    /// The host lock that the run held.
    pub lock: Option<PathBuf>,
    /// The folder of the run's record.
    pub dir: PathBuf,
    /// The folder of the config.
    pub folder: PathBuf,
    /// The tools that the run used.
    pub tools: Tools,
    /// The machines that may still exist.
    pub open: BTreeMap<String, MachineRecord>,
    /// The machines that were kept on purpose.
    pub kept: BTreeMap<String, MachineRecord>,
}

impl JournalState {
    /// Returns a machine that may exist, by its generated name.
    fn machine(&mut self, name: &str) -> Option<&mut MachineRecord> {
        self.open.get_mut(name).or_else(|| self.kept.get_mut(name))
    }
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The system reported an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A record before the last is broken.
    #[error("line {0} is damaged")]
    Damaged(usize),
    /// The journal was written by a newer vmdeck.
    #[error("it was written by a newer vmdeck (version {0})")]
    Newer(u32),
}

/// Reads a journal by its path.
pub fn read(path: &Path) -> Result<JournalState, Unreadable> {
    replay(&vmdeck_files::read(path, vmdeck_files::LARGE)?)
}

/// Reads a journal that is open.
pub fn read_open(file: &mut File) -> Result<JournalState, Unreadable> {
    replay(&all(file)?)
}

pub(crate) fn replay(bytes: &[u8]) -> Result<JournalState, Unreadable> {
    let mut out = JournalState::default();
    let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    for (index, line) in lines.iter().enumerate() {
        if line.is_empty() {
            continue;
        }
        let Some(record) = parse(line) else {
            // Only the last record can be torn: every earlier one was synced before the next began.
            if lines[index + 1..].iter().all(|l| l.is_empty()) {
                break;
            }
            return Err(Unreadable::Damaged(index + 1));
        };
        apply(&mut out, record)?;
    }
    Ok(out)
}

fn parse(line: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(line).ok()?;
    let (sum, json) = text.split_once(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != crc32fast::hash(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

fn apply(out: &mut JournalState, record: Record) -> Result<(), Unreadable> {
    match record {
        Record::Run { version, .. } if version > VERSION => return Err(Unreadable::Newer(version)),
        Record::Run { run, pid, started, lock, dir, folder, .. } => {
            out.run = run;
            out.process = Some((pid, started));
            out.lock = lock;
            out.dir = dir;
            out.folder = folder;
        }
        Record::Tools { tools } => out.tools = tools,
        Record::Intent { name, backend, guest, dir, identity, adopted, place } => {
            let record = MachineRecord {
                name: name.clone(),
                id: identity,
                place,
                dir,
                adopted,
                backend,
                guest,
                address: None,
                host_key: None,
                console: None,
                kept: None,
            };
            out.open.insert(name, record);
        }
        Record::Known { name, identity, console } => {
            if let Some(made) = out.machine(&name) {
                made.id = identity;
                made.console = console;
            }
        }
        Record::Reached { name, address, host_key } => {
            if let Some(made) = out.machine(&name) {
                made.address = address;
                made.host_key = host_key;
            }
        }
        Record::Gone { name, .. } => {
            out.open.remove(&name);
            out.kept.remove(&name);
        }
        Record::Kept { name, address, host_key, kept } => {
            if let Some(made) = out.open.remove(&name).or_else(|| out.kept.remove(&name)) {
                out.kept.insert(name, MachineRecord { address, host_key, kept, ..made });
            }
        }
        Record::End => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(name: &str) -> Record {
        Record::Intent {
            name: name.into(),
            backend: "qemu".into(),
            guest: GuestId::new("deb").expect("name"),
            dir: "/m".into(),
            identity: MachineId { uuid: Some("u".into()), ..MachineId::default() },
            adopted: None,
            place: BTreeMap::new(),
        }
    }

    fn written(records: &[Record]) -> (tempfile::TempDir, Journal) {
        let home = tempfile::tempdir().expect("tempdir");
        let journal = Journal::begin(home.path(), "r1", None, Path::new("/d"), Path::new("/p")).expect("begun");
        for record in records {
            journal.append(record).expect("written");
        }
        (home, journal)
    }

    #[test]
    fn what_is_open_is_what_was_intended_and_not_proven_gone() {
        let gone = Record::Gone { name: "a".into(), proof: "p".into() };
        let known = Record::Known {
            name: "b".into(),
            identity: MachineId { pid: Some(7), ..MachineId::default() },
            console: None,
        };
        let (_home, journal) = written(&[
            intent("a"),
            intent("b"),
            known,
            gone,
            intent("c"),
            Record::Kept { name: "c".into(), address: None, host_key: None, kept: None },
        ]);
        let state = read(journal.path()).expect("readable");
        assert_eq!(state.open.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(state.open["b"].id.pid, Some(7));
        assert_eq!(state.kept.keys().collect::<Vec<_>>(), ["c"]);
        journal.end().expect("ended");
        assert!(journal.path().exists(), "something is left, so the file stays");
    }

    #[test]
    fn a_clean_end_removes_the_file() {
        let (_home, journal) = written(&[intent("a"), Record::Gone { name: "a".into(), proof: "p".into() }]);
        journal.end().expect("ended");
        assert!(!journal.path().exists());
    }

    #[test]
    fn a_tear_at_any_byte_loses_at_most_the_last_record() {
        let (_home, journal) = written(&[intent("a"), intent("b")]);
        let bytes = fs::read(journal.path()).expect("bytes");
        let lines: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        for cut in 0..=bytes.len() {
            let whole = lines.iter().filter(|end| **end <= cut || **end - 1 == cut).count();
            let state = replay(&bytes[..cut]).expect("a torn end is no damage");
            assert_eq!(state.open.len(), whole.saturating_sub(1), "cut at {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_forbids_everything() {
        let (_home, journal) = written(&[intent("a"), intent("b")]);
        let bytes = fs::read(journal.path()).expect("bytes");
        let second = bytes.iter().position(|b| *b == b'\n').expect("line") + 1;
        for at in [second, second + 9, second + 30] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(matches!(replay(&bad), Err(Unreadable::Damaged(2))), "byte {at}");
        }
    }

    #[test]
    fn a_newer_version_is_left_alone() {
        let json = r#"{"op":"run","version":99,"run":"r","pid":1,"started":0,"lock":null,"dir":"/"}"#;
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        assert!(matches!(replay(line.as_bytes()), Err(Unreadable::Newer(99))));
    }

    #[test]
    fn a_folder_that_cannot_be_written_forbids_the_run() {
        let fault = Journal::begin(Path::new("/proc/no"), "r1", None, Path::new("/d"), Path::new("/p"))
            .expect_err("not writable");
        assert_eq!(fault.blame(), vmdeck_model::error::Blame::Host);
    }
}
