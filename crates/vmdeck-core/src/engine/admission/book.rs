//! The book of a host's memory: a folder beside the lock with a ticket for each machine that has some, and for each that waits.
//!
//! A ticket is flocked by the run that made it and, for a machine that is a process of this host, by that process as well: so what was
//! promised stays so exactly as long as the machine lives, kept, paused or orphaned. Whoever reads the book removes what is nobody's.

use super::{
    entry::{self, EntryState, MachineProcess, MemoryEntry},
    rule::{MemoryWaiter, Promise},
};
use crate::{
    backend::record::MachineId,
    host::{clock, lockdir, pids, tickets, tickets::TicketFolder},
};
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long somebody else may write in the book. Each does so for less than a millisecond.
const BUSY: Duration = Duration::from_secs(2);
/// How often it is looked whether the book is free.
const AGAIN: Duration = Duration::from_millis(5);

/// Returns the folder of the book of a lock's host.
pub(super) fn folder_of(lock: &Path) -> PathBuf {
    lockdir::beside(lock, "memory")
}

/// A ticket that is somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BookLine {
    pub(super) name: String,
    pub(super) entry: MemoryEntry,
    /// How many bytes its machine uses.
    pub(super) used: u64,
}

impl BookLine {
    /// Returns whether it is that of a machine whose process is gone, but for what the system still does with it.
    pub(super) fn is_dying(&self) -> bool {
        pids::are_of_the_host()
            && self.entry.process.is_some_and(|process| pids::started(process.pid) != Some(process.started))
    }
}

/// What is in the book.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryBook {
    pub(super) promised: Vec<BookLine>,
    pub(super) waiting: Vec<BookLine>,
}

impl MemoryBook {
    pub(super) fn promises(&self) -> Vec<Promise> {
        self.promised.iter().map(|line| Promise { memory: line.entry.memory, used: line.used }).collect()
    }

    /// Returns those who wait since before this ticket was made.
    pub(super) fn older_than(&self, name: &str) -> Vec<MemoryWaiter> {
        let now = clock::since_boot();
        let since = |name: &str| {
            let at = name.split('-').next().and_then(|nanos| nanos.parse().ok()).map(Duration::from_nanos);
            now.saturating_sub(at.unwrap_or(now))
        };
        let waiter = |line: &BookLine| MemoryWaiter {
            name: line.name.clone(),
            memory: line.entry.memory,
            waited: since(&line.name),
        };
        self.waiting.iter().filter(|line| line.name.as_str() < name).map(waiter).collect()
    }
}

/// Reads the book; `clean` = what is nobody's is removed.
pub(super) fn read(folder: &TicketFolder, clean: bool) -> MemoryBook {
    let mut lines = MemoryBook::default();
    for name in folder.names() {
        let is_held = folder.is_held(&name);
        let entry = folder.read(&name, entry::SIZE).ok().and_then(|bytes| MemoryEntry::parse(&bytes));
        let Some(entry) = entry.filter(|entry| is_held || is_kept(folder, &name, entry)) else {
            if clean && !is_held {
                folder.remove(&name);
            }
            continue;
        };
        let used = entry.used();
        let list = if entry.state == EntryState::Waiting { &mut lines.waiting } else { &mut lines.promised };
        list.push(BookLine { name, entry, used });
    }
    lines
}

/// Returns whether a ticket is that of a machine which was kept and is no process of this host. Only our own word and root's counts.
fn is_kept(folder: &TicketFolder, name: &str, entry: &MemoryEntry) -> bool {
    let EntryState::Kept(journal) = &entry.state else { return false };
    let us = rustix::process::getuid().as_raw();
    let is_trusted = folder.owner(name).is_some_and(|owner| owner == us || owner == 0 || us == 0);
    // Of another user's state folder nothing can be seen, also whether the journal is there.
    is_trusted && journal.try_exists().unwrap_or(true)
}

/// The right to write in the book.
pub(super) struct Writing<'a>(&'a TicketFolder);

impl<'a> Writing<'a> {
    /// Waits until nobody else writes; `None` = somebody does not end.
    pub(super) async fn begin(folder: &'a TicketFolder) -> Option<Self> {
        let taken = async {
            while !matches!(lockdir::try_flock(folder.fd()), Ok(true)) {
                clock::sleep(AGAIN).await;
            }
        };
        clock::within(BUSY, taken).await.map(|()| Self(folder))
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(self.0.fd(), FlockOperation::Unlock);
    }
}

/// Memory that is promised to one machine, until the last process that holds its ticket is gone.
#[derive(Debug)]
pub struct Reservation {
    folder: Arc<TicketFolder>,
    name: String,
    /// Taken when it is dropped.
    file: Option<OwnedFd>,
    entry: Mutex<MemoryEntry>,
}

impl Reservation {
    /// Adds a ticket to an open book.
    pub(super) fn add(folder: &Arc<TicketFolder>, entry: MemoryEntry) -> io::Result<Self> {
        let (name, file) = folder.add(&entry.bytes())?;
        Ok(Self { folder: Arc::clone(folder), name, file: Some(file), entry: Mutex::new(entry) })
    }

    /// Adds a ticket to the book of this path, which is made where there is none.
    pub(super) fn first(path: &Path, entry: MemoryEntry) -> io::Result<Self> {
        let (folder, name, file) = tickets::make_and_add(path, &entry.bytes())?;
        Ok(Self { folder: Arc::new(folder), name, file: Some(file), entry: Mutex::new(entry) })
    }

    pub(super) fn folder(&self) -> &Arc<TicketFolder> {
        &self.folder
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether others still see the ticket.
    pub(super) fn is_there(&self) -> bool {
        self.folder.has(&self.name) && self.folder.is_current()
    }

    /// Returns the descriptor that keeps it: a machine whose process has a copy keeps it as long as it lives.
    pub(in crate::engine) fn descriptor(&self) -> Option<&OwnedFd> {
        self.file.as_ref()
    }

    /// Changes what is written in the ticket; the caller may write in the book.
    pub(super) fn write(&self, change: impl FnOnce(&mut MemoryEntry)) -> io::Result<()> {
        let mut entry = self.entry.lock();
        change(&mut entry);
        self.file.as_ref().map_or(Ok(()), |file| tickets::write(file, &entry.bytes()))
    }

    /// Changes what is written in the ticket. Where that cannot be, others only reckon with more than is used.
    async fn change(&self, change: impl FnOnce(&mut MemoryEntry)) {
        if let Some(_writing) = Writing::begin(&self.folder).await {
            let _ = self.write(change);
        }
    }

    /// Notes the process of a machine that has memory, where it is one of this host: what it uses is measured from now on.
    pub(in crate::engine) async fn note_process(memory: Option<&Self>, id: &MachineId) {
        if let Some(memory) = memory.filter(|_| id.pid.is_some()) {
            memory.note_machine(Some(id)).await;
        }
    }

    /// Notes that its machine is up: what it uses can be measured where it is a process of ours, and counts as used where not.
    pub(in crate::engine) async fn note_machine(&self, id: Option<&MachineId>) {
        let process = id.and_then(|id| Some(MachineProcess { pid: id.pid?, started: id.started? }));
        self.change(|entry| (entry.process, entry.is_up) = (process, process.is_none())).await;
    }

    /// Notes that its machine is gone, and that another one may follow.
    pub(in crate::engine) async fn note_end(&self) {
        self.change(|entry| (entry.process, entry.is_up) = (None, false)).await;
    }

    /// Leaves it to its machine, which is kept: to the machine's process, or where it is none of this host, as long as this journal is
    /// there.
    pub(in crate::engine) async fn leave(&self, journal: &Path) {
        let is_process = self.entry.lock().process.is_some();
        let state = if is_process { EntryState::Left } else { EntryState::Kept(journal.to_owned()) };
        self.change(|entry| entry.state = state).await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        drop(self.file.take());
        let is_kept = matches!(self.entry.lock().state, EntryState::Kept(_));
        // The machine's own process may have it.
        if !is_kept && !self.folder.is_held(&self.name) {
            self.folder.remove(&self.name);
        }
        self.folder.remove_empty();
    }
}
