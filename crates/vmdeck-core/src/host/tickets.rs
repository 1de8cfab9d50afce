//! Tickets: files in a folder that all users of this host share, each flocked while its maker lives.
//!
//! Whether a ticket is somebody's is the kernel's word, whatever killed its maker. Everything in such a folder is hostile: names and
//! contents may be anything, and there may be very many.

use super::{clock, failpoint, lockdir, pids, random};
use notify::{RecursiveMode, Watcher};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Notify;

/// The most tickets that are looked at.
pub const MOST: usize = 1000;
/// The most entries that are looked at: those on their way are not counted.
const LOOKED_AT: usize = 2 * MOST;
/// How often a folder is made again that its last user removed in the moment between.
const TRIES: usize = 20;

/// An open folder of tickets.
#[derive(Debug)]
pub struct TicketFolder {
    path: PathBuf,
    fd: OwnedFd,
}

impl TicketFolder {
    /// Opens the folder, and makes it where there is none: every user may add a ticket, and removes only its own.
    pub fn make(path: &Path) -> io::Result<Self> {
        match fs::create_dir(path) {
            Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o1777))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        Self::open(path)
    }

    /// Opens the folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), fd: lockdir::open(path)? })
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the descriptor of the folder.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Returns whether others who open the folder now get this one.
    pub fn is_current(&self) -> bool {
        lockdir::inode_at(&self.path).ok().flatten() == lockdir::inode_of(&self.fd).ok()
    }

    /// Adds a ticket that the returned descriptor keeps; returns its name, by which tickets are in the order in which they came.
    pub fn add(&self, content: &[u8]) -> io::Result<(String, OwnedFd)> {
        for _ in 1..TRIES {
            match self.try_add(content) {
                // Somebody who sweeps took it for a dead one's, in the moment before it was locked.
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.is_current() => {}
                done => return done,
            }
        }
        self.try_add(content)
    }

    fn try_add(&self, content: &[u8]) -> io::Result<(String, OwnedFd)> {
        let name = format!("{:020}-{}-{:08x}", clock::since_boot().as_nanos(), pids::current(), random::u32());
        // Under a name that nobody looks at, until it is locked.
        let fresh = format!(".{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, &fresh, flags, Mode::from_raw_mode(0o644))?;
        failpoint::pass("ticket-begin");
        let added = || -> io::Result<()> {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            write(&file, content)?;
            Ok(rustix::fs::renameat(&self.fd, &fresh, &self.fd, &name)?)
        };
        match added() {
            Ok(()) => Ok((name, file)),
            Err(e) => {
                let _ = rustix::fs::unlinkat(&self.fd, &fresh, AtFlags::empty());
                Err(e)
            }
        }
    }

    /// Returns the names of tickets, the oldest first, and at most so many as are looked at.
    pub fn names(&self) -> Vec<String> {
        let entries = rustix::fs::Dir::read_from(&self.fd).into_iter().flatten().flatten();
        let named = |entry: rustix::fs::DirEntry| entry.file_name().to_str().ok().map(str::to_owned);
        let names = entries.take(LOOKED_AT).filter_map(named).filter(|name| is_ticket(name));
        let mut names: Vec<String> = names.take(MOST).collect();
        names.sort_unstable();
        names
    }

    /// Removes what those left who died while they made a ticket.
    pub fn sweep(&self) {
        let entries = rustix::fs::Dir::read_from(&self.fd).into_iter().flatten().flatten();
        for entry in entries.take(LOOKED_AT) {
            let name = entry.file_name().to_str().unwrap_or_default();
            if name.strip_prefix('.').is_some_and(is_ticket) && !self.is_held(name) {
                self.remove(name);
            }
        }
    }

    /// Returns whether a ticket is somebody's who lives.
    pub fn is_held(&self, name: &str) -> bool {
        let Ok(file) = vmdeck_files::open_below(&self.fd, name) else { return false };
        // Shared, so that two who look at a dead one do not take each other for its owner.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// Returns what is written in a ticket, up to a limit.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        vmdeck_files::read_open(&vmdeck_files::open_below(&self.fd, name)?, limit)
    }

    /// Returns the user whose ticket it is.
    pub fn owner(&self, name: &str) -> Option<u32> {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| stat.st_uid)
    }

    /// Returns whether there is a ticket of this name.
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Removes a ticket; returns whether it is gone. Another user's stays.
    pub fn remove(&self, name: &str) -> bool {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).is_ok()
    }

    /// Removes the folder if nothing is in it; whoever comes next makes it again.
    pub fn remove_empty(&self) {
        let _ = fs::remove_dir(&self.path);
    }

    /// Returns what tells of changes in the folder.
    pub fn watch(&self) -> TicketWatch {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        let told = move |event: notify::Result<notify::Event>| {
            // What waiters read must not wake waiters.
            if event.is_ok_and(|e| !matches!(e.kind, notify::EventKind::Access(_))) {
                wake.notify_one();
            }
        };
        // Out of watches: who waits still looks from time to time.
        let watcher = notify::recommended_watcher(told)
            .and_then(|mut watcher| watcher.watch(&self.path, RecursiveMode::NonRecursive).map(|()| watcher))
            .ok();
        TicketWatch { changed, _watcher: watcher }
    }
}

/// Returns whether a name is one that a ticket has: anything else in the folder is none of ours.
fn is_ticket(name: &str) -> bool {
    let (since, rest) = name.split_at_checked(20).unwrap_or_default();
    since.bytes().all(|byte| byte.is_ascii_digit()) && rest.starts_with('-')
}

/// Makes a folder of tickets and adds one; another try where the folder was removed in the moment between.
pub fn make_and_add(path: &Path, content: &[u8]) -> io::Result<(TicketFolder, String, OwnedFd)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let added = TicketFolder::make(path).and_then(|folder| {
            let (name, file) = folder.add(content)?;
            Ok((folder, name, file))
        });
        match added {
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
            // With our ticket in it nobody removes it any more; one that was put in its place is another one.
            Ok((folder, ..)) if !folder.is_current() && tries < TRIES => {}
            done => return done,
        }
    }
}

/// Replaces what is written in a ticket. Over what is there, and only then cut: on a full disk what it said before stays.
pub fn write(file: &OwnedFd, content: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < content.len() {
        at += rustix::io::pwrite(file, &content[at..], at as u64)?;
    }
    Ok(rustix::fs::ftruncate(file, content.len() as u64)?)
}

/// Tells of changes in a folder of tickets.
pub struct TicketWatch {
    changed: Arc<Notify>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl TicketWatch {
    /// Waits until something changed; cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
