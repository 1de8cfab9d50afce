//! Who comes next: the waiters of one lock, in the order in which they came.
//!
//! A waiter has a ticket: a file in the folder `LOCK.queue`, named by the time at which it came and flocked while it waits. The
//! first ticket that is alive is next. The order is only a courtesy between vmdecks: it never decides who holds the lock,
//! and a waiter that does not go when it could is passed over. The folder is for all users of the host, so everything in
//! it is hostile.

use crate::host::{
    clock, lockdir,
    tickets::{self, TicketFolder, TicketWatch},
};
use rustix::fs::OFlags;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::event::Holder;

/// How long the old scripts get to take a lock that they share with us: their poll of 2 s, and a margin.
pub(super) const YIELD: Duration = Duration::from_millis(2500);
/// The most that a waiter may tell of itself, in bytes.
const TOLD: u64 = 4096;

/// A place in the queue; given up when it is dropped.
pub(super) struct Ticket {
    folder: TicketFolder,
    name: String,
    /// The tickets before ours that were passed over and cannot be removed.
    passed: BTreeSet<String>,
    _file: OwnedFd,
    watch: TicketWatch,
}

/// Returns the folder of a lock's queue.
pub(super) fn folder_of(lock: &Path) -> PathBuf {
    lockdir::beside(lock, "queue")
}

impl Ticket {
    /// Takes the last place. `owner` = what others are told of who waits.
    pub(super) fn take(lock: &Path, owner: &Holder) -> io::Result<Self> {
        let path = folder_of(lock);
        let told = serde_json::to_vec(owner).unwrap_or_default();
        // Only for people who ask who waits: the place counts without it, on a full disk too.
        let added = tickets::make_and_add(&path, &told).or_else(|_| tickets::make_and_add(&path, &[]));
        let (folder, name, file) = added?;
        Ok(Self { watch: folder.watch(), folder, name, passed: BTreeSet::new(), _file: file })
    }

    /// Returns the ticket of the first who lives and came before, but for those that were passed over; `None` = it is our turn.
    pub(super) fn ahead(&self) -> Option<String> {
        first_alive(&self.folder, Some(&self.name), &self.passed)
    }

    /// Takes a ticket out of the queue whose owner did not go: when it wakes up it comes last.
    pub(super) fn pass_over(&mut self, name: &str) {
        if !self.folder.remove(name) {
            // Another user's: here it is nobody's turn any more.
            self.passed.insert(name.to_owned());
        }
    }

    /// Returns whether nobody who lives waits for this lock.
    pub(super) fn nobody_waits(lock: &Path) -> bool {
        let Ok(folder) = TicketFolder::open(&folder_of(lock)) else { return true };
        let nobody = first_alive(&folder, None, &BTreeSet::new()).is_none();
        if nobody {
            // Waiters that were killed could not take it along.
            folder.sweep();
            folder.remove_empty();
        }
        nobody
    }

    /// Returns whether the ticket is still in the queue that others see.
    pub(super) fn is_there(&self) -> bool {
        self.folder.has(&self.name) && self.folder.is_current()
    }

    /// Waits until something changed in the queue or the lock was released; cancel-safe.
    pub(super) async fn changed(&self) {
        self.watch.changed().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.folder.remove(&self.name);
        // The last one takes the folder along; others in it keep it.
        self.folder.remove_empty();
    }
}

/// Returns who waits for a lock, the first first, as far as they tell; nothing is changed.
pub fn waiting(lock: &Path) -> Vec<Holder> {
    let Ok(folder) = TicketFolder::open(&folder_of(lock)) else { return Vec::new() };
    let holder = |name: &String| {
        if !folder.is_held(name) {
            return None;
        }
        let told = folder.read(name, TOLD).ok().and_then(|bytes| serde_json::from_slice::<Holder>(&bytes).ok());
        let pid = name.split('-').nth(1).and_then(|pid| pid.parse().ok());
        Some(Holder { phase: None, ..told.unwrap_or(Holder { pid, ..Holder::default() }) })
    };
    folder.names().iter().filter_map(holder).collect()
}

/// Returns the first ticket of somebody who lives, before this one where one is given; removes those of the dead.
fn first_alive(folder: &TicketFolder, before: Option<&str>, passed: &BTreeSet<String>) -> Option<String> {
    let names = folder.names();
    if names.len() >= tickets::MOST {
        // With so many there is no order.
        return None;
    }
    let mut earlier = names
        .into_iter()
        .filter(|name| !passed.contains(name))
        .take_while(|name| before.is_none_or(|own| name.as_str() < own));
    earlier.find(|name| {
        let is_held = folder.is_held(name);
        if !is_held {
            folder.remove(name);
        }
        is_held
    })
}

/// Wakes those who wait for this lock.
pub(super) fn wake(lock: &Path) {
    if let Ok(folder) = lockdir::open(&folder_of(lock)) {
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let _ = rustix::fs::futimens(&folder, &rustix::fs::Timestamps { last_access: now, last_modification: now });
    }
}

/// Notes that a lock which the old scripts share was released now.
pub(super) fn note_release(lock: &Path) {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = File::options();
    file.write(true).create(true).mode(0o666).custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    // Another user's note of an earlier release cannot be renewed; then only the queue's own order is left.
    if let Ok(file) = file.open(lockdir::beside(lock, "last")) {
        let _ = file.set_modified(clock::system());
    }
}

/// Returns whether the old scripts have not had their turn since the last release.
pub(super) fn was_just_released(lock: &Path) -> bool {
    let noted = fs::symlink_metadata(lockdir::beside(lock, "last")).and_then(|note| note.modified());
    // A time in the future says nothing.
    noted.is_ok_and(|at| clock::system().duration_since(at).is_ok_and(|age| age < YIELD))
}
