//! Who comes next: the waiters of one lock, in the order in which they came.
//!
//! A waiter has a ticket: a file in the folder `LOCK.queue`, named by the time at which it came and flocked while it waits. The
//! first ticket that is alive is next. The order is only a courtesy between vmdecks: it never decides who holds the lock,
//! and a waiter that does not go when it could is passed over. The folder is for all users of the host, so everything in
//! it is hostile.

use crate::host::{clock, lockdir, pids, random};
use notify::{RecursiveMode, Watcher};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;
use vmdeck_model::event::Holder;

/// How long the old scripts get to take a lock that they share with us: their poll of 2 s, and a margin.
pub(super) const YIELD: Duration = Duration::from_millis(2500);
/// The most that a waiter may tell of itself, in bytes.
const TOLD: u64 = 4096;
/// The most tickets that are looked at: with more there is no order.
const TICKETS: usize = 1000;

/// A place in the queue; given up when it is dropped.
pub(super) struct Ticket {
    path: PathBuf,
    folder: OwnedFd,
    name: String,
    /// The tickets before ours that were passed over and cannot be removed.
    passed: BTreeSet<String>,
    _file: OwnedFd,
    changed: Arc<Notify>,
    _watcher: Option<notify::RecommendedWatcher>,
}

/// Returns the folder of a lock's queue.
pub(super) fn folder_of(lock: &Path) -> PathBuf {
    lockdir::beside(lock, "queue")
}

impl Ticket {
    /// Takes the last place. `owner` = what others are told of who waits.
    pub(super) fn take(lock: &Path, owner: &Holder) -> io::Result<Self> {
        let path = folder_of(lock);
        match fs::create_dir(&path) {
            // Every user of the host may wait; each removes only its own.
            Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(0o1777))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        let folder = lockdir::open(&path)?;
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        let told = move |event: notify::Result<notify::Event>| {
            // What waiters read must not wake waiters.
            if event.is_ok_and(|e| !matches!(e.kind, notify::EventKind::Access(_))) {
                wake.notify_one();
            }
        };
        // Out of watches: the waiter still looks from time to time.
        let watcher = notify::recommended_watcher(told)
            .and_then(|mut watcher| watcher.watch(&path, RecursiveMode::NonRecursive).map(|()| watcher))
            .ok();
        let name = format!("{:020}-{}-{:08x}", clock::since_boot().as_nanos(), pids::current(), random::u32());
        // Under a name that nobody looks at, until it is locked.
        let fresh = format!(".{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, &fresh, flags, Mode::from_raw_mode(0o644))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // Only for people who ask who waits: the place counts without it, on a full disk too.
        let told = serde_json::to_vec(owner).unwrap_or_default();
        let _ = rustix::io::write(&file, &told);
        rustix::fs::renameat(&folder, &fresh, &folder, &name)?;
        Ok(Self { path, folder, name, passed: BTreeSet::new(), _file: file, changed, _watcher: watcher })
    }

    /// Returns the ticket of the first who lives and came before, but for those that were passed over; `None` = it is our turn.
    pub(super) fn ahead(&self) -> Option<String> {
        first_alive(&self.folder, Some(&self.name), &self.passed)
    }

    /// Takes a ticket out of the queue whose owner did not go: when it wakes up it comes last.
    pub(super) fn pass_over(&mut self, name: &str) {
        if rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()).is_err() {
            // Another user's: here it is nobody's turn any more.
            self.passed.insert(name.to_owned());
        }
    }

    /// Returns whether nobody who lives waits for this lock.
    pub(super) fn nobody_waits(lock: &Path) -> bool {
        let path = folder_of(lock);
        let nobody = lockdir::open(&path).map_or(true, |folder| first_alive(&folder, None, &BTreeSet::new()).is_none());
        if nobody {
            // Waiters that were killed could not take it along; one that is just coming makes it again.
            let _ = fs::remove_dir(path);
        }
        nobody
    }

    /// Returns whether the ticket is still in the queue that others see.
    pub(super) fn is_there(&self) -> bool {
        let there = rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        there && lockdir::inode_at(&self.path).ok().flatten() == lockdir::inode_of(&self.folder).ok()
    }

    /// Waits until something changed in the queue or the lock was released; cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        // The last one takes the folder along; others in it keep it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Returns who waits for a lock, the first first, as far as they tell; nothing is changed.
pub fn waiting(lock: &Path) -> Vec<Holder> {
    let Ok(folder) = lockdir::open(&folder_of(lock)) else { return Vec::new() };
    let mut names = names(&folder);
    names.sort_unstable();
    let holder = |name: &String| {
        let file = vmdeck_files::open_below(&folder, name).ok()?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            // It is nobody's any more.
            return None;
        }
        let told = vmdeck_files::read_open(&file, TOLD).ok();
        let told = told.and_then(|bytes| serde_json::from_slice::<Holder>(&bytes).ok());
        let pid = name.split('-').nth(1).and_then(|pid| pid.parse().ok());
        Some(Holder { phase: None, ..told.unwrap_or(Holder { pid, ..Holder::default() }) })
    };
    names.iter().filter_map(holder).collect()
}

/// Returns the names in a queue that may be tickets, at most so many as are looked at.
fn names(folder: &OwnedFd) -> Vec<String> {
    let entries = rustix::fs::Dir::read_from(folder).into_iter().flatten().flatten();
    let names = entries.take(TICKETS).filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names.filter(|name| !name.starts_with('.')).collect()
}

/// Returns the first ticket of somebody who lives, before this one where one is given; removes those of the dead.
fn first_alive(folder: &OwnedFd, before: Option<&str>, passed: &BTreeSet<String>) -> Option<String> {
    let names: Vec<CString> = rustix::fs::Dir::read_from(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_owned())
        .take(TICKETS)
        .collect();
    if names.len() == TICKETS {
        return None;
    }
    let names = names
        .iter()
        .filter_map(|name| name.to_str().ok())
        .filter(|name| !name.starts_with('.') && !passed.contains(*name));
    let mut earlier: Vec<&str> = names.filter(|name| before.is_none_or(|own| *name < own)).collect();
    earlier.sort_unstable();
    earlier.into_iter().find(|name| is_alive(folder, name)).map(str::to_owned)
}

fn is_alive(folder: &OwnedFd, name: &str) -> bool {
    let Ok(file) = vmdeck_files::open_below(folder, name) else { return false };
    // Shared, so that two who look at a dead one do not take each other for its owner.
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
        return true;
    }
    let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
    false
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
