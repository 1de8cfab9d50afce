//! The host lock: one run at a time on this host, other copies of vmdeck and the old scripts included.
//!
//! Who is alive is known from a kernel `flock` on the lock directory's own inode, held until the last process that needs
//! the lock is gone: never from a pid, an age or a clock. Publishing is a rename onto a free name; breaking a dead lock is
//! an exchange of names while holding the dead lock's own flock; release renames the directory away and looks at what it
//! got. With the old scripts on the same path (they break locks by age, and remove what they have not looked at), the
//! lock is used only after it has stood for 2.5 s, and its time stamp is kept in the future.

mod acquire;
mod breaking;
mod judge;
mod queue;
mod watch;

use crate::host::{clock, failpoint, files, info, lockdir, pids, random};
pub use acquire::{acquire, acquire_slots};
pub use breaking::{break_dead, dead_foreign, sweep_private, take_away};
pub use judge::{Standing, look, removable_only_by};
pub use queue::waiting;
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::event::Holder;
pub use watch::LockWatch;

/// How long a fresh lock must exist before it counts, where the old scripts share it.
const SETTLE: Duration = Duration::from_millis(2500);
/// How far its time stamp is pushed into the future there: past the old scripts' one hour, with a day's room.
const LEAD: Duration = Duration::from_hours(24);
/// How often the time stamp is pushed again.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the holder checks whether the lock is still its own.
const CHECK: Duration = Duration::from_secs(1);

/// A request for the lock.
#[derive(Clone, Debug)]
pub struct LockRequest {
    /// The lock directory.
    pub path: PathBuf,
    /// Whether the old scripts use it too.
    pub shared: bool,
    /// How long to wait.
    pub timeout: Duration,
    /// The owner record of this process.
    pub owner: Holder,
}

/// Returns the owner record of this process.
pub fn owner(run: Option<&str>) -> Holder {
    // Only our own words: options of the user may hold what others should not read.
    let words = std::env::args_os().take(2);
    let command = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    Holder {
        pid: Some(pids::current()),
        run: run.map(str::to_owned),
        command: Some(command),
        host: Some(info::host_name()),
        since: Some(clock::utc().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
        phase: Some("starting".into()),
    }
}

/// The lock, held. It stays held until [`HostLock::release`] or until every copy of its descriptor is closed.
#[derive(Debug)]
pub struct HostLock {
    path: PathBuf,
    /// The first of the slots, whose queue it is.
    base: PathBuf,
    fd: OwnedFd,
    inode: lockdir::Inode,
    shared: bool,
    owner: Holder,
}

/// A complete lock directory under a private name: the public name never shows a half-made one.
struct UnpublishedLock {
    path: PathBuf,
    fd: Option<OwnedFd>,
    inode: lockdir::Inode,
}

impl UnpublishedLock {
    fn make(public: &Path, request: &LockRequest) -> io::Result<Self> {
        let path = sibling(public, "new");
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::create_dir(&path)?;
        let made = || -> io::Result<(OwnedFd, lockdir::Inode)> {
            for (name, bytes) in
                [("pid", format!("{}\n", pids::current()).into_bytes()), ("owner.json", owner_json(&request.owner))]
            {
                let file = path.join(name);
                fs::write(&file, bytes)?;
                lockdir::open_to_all(&file)?;
            }
            lockdir::open_to_all(&path)?;
            let fd = lockdir::open(&path)?;
            if !lockdir::try_flock(&fd)? {
                return Err(io::Error::other("another process locked a directory that was just made"));
            }
            if request.shared {
                lockdir::push_mtime(&fd, LEAD)?;
            }
            let inode = lockdir::inode_of(&fd)?;
            Ok((fd, inode))
        };
        match made() {
            Ok((fd, inode)) => Ok(Self { path, fd: Some(fd), inode }),
            Err(e) => {
                let _ = files::remove_dir(&path);
                Err(e)
            }
        }
    }

    fn keep(mut self, public: &Path, request: &LockRequest) -> HostLock {
        let fd = self.fd.take();
        // `fd` is there: only `keep` takes it, and it consumes the value.
        let fd = fd.unwrap_or_else(|| unreachable!("kept once"));
        HostLock {
            path: public.to_owned(),
            base: request.path.clone(),
            fd,
            inode: self.inode,
            shared: request.shared,
            owner: request.owner.clone(),
        }
    }
}

impl Drop for UnpublishedLock {
    fn drop(&mut self) {
        if self.fd.is_some() {
            let _ = files::remove_dir(&self.path);
        }
    }
}

fn sibling(path: &Path, what: &str) -> PathBuf {
    lockdir::beside(path, format_args!("{what}.{}.{:08x}", pids::current(), random::u32()))
}

fn owner_json(owner: &Holder) -> Vec<u8> {
    let mut value = serde_json::to_value(owner).unwrap_or_default();
    value["boot"] = info::boot_id().into();
    serde_json::to_vec_pretty(&value).unwrap_or_default()
}

impl HostLock {
    /// Returns the descriptor whose flock is the lock; a copy given to another process keeps it held.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Returns the path of the lock.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the name still leads to our directory.
    pub fn is_ours(&self) -> bool {
        matches!(lockdir::inode_at(&self.path), Ok(Some(inode)) if inode == self.inode)
    }

    /// Shows waiters what is being done.
    pub fn set_phase(&mut self, phase: &str) {
        self.owner.phase = Some(phase.to_owned());
        self.rewrite("owner.json", &owner_json(&self.owner));
    }

    /// Names the process that will be the last to need the lock: the old scripts check this pid.
    pub fn set_pid(&mut self, pid: u32) {
        self.rewrite("pid", format!("{pid}\n").as_bytes());
    }

    fn rewrite(&self, name: &str, bytes: &[u8]) {
        // Only for people and for the old scripts; our own exclusion does not depend on it.
        if self.is_ours() && files::write_shared(&self.path.join(name), bytes).is_ok() && self.shared {
            let _ = lockdir::push_mtime(&self.fd, LEAD);
        }
    }

    /// Waits until a script that judged an older lock can no longer remove this one; `false` = it was removed.
    async fn settle(&self, cancel: &CancellationToken) -> bool {
        let start = clock::now();
        while start.elapsed() < SETTLE && !cancel.is_cancelled() {
            if !self.is_ours() {
                return false;
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
        self.is_ours()
    }

    /// Returns a watcher for the loss of the lock; it does not hold the lock.
    pub fn watcher(&self) -> Watcher {
        Watcher {
            path: self.path.clone(),
            inode: self.inode,
            heartbeat: self.fd.try_clone().ok().filter(|_| self.shared),
        }
    }

    /// Releases the lock; touches nothing that is not ours.
    pub fn release(self) {
        if self.shared {
            // First, so that none of us takes it before the old scripts have had their turn.
            queue::note_release(&self.path);
        }
        release(&self.path, self.inode);
        queue::wake(&self.base);
    }
}

/// Checks whether a lock is still the one that was acquired.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    inode: lockdir::Inode,
    /// The descriptor for the time stamp that keeps the old scripts away.
    heartbeat: Option<OwnedFd>,
}

impl Watcher {
    /// Returns the lock's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Watches until the lock is lost; returns why. Never returns while it is ours.
    pub async fn until_lost(&self) -> String {
        let mut beaten = clock::now();
        loop {
            clock::sleep(CHECK).await;
            match lockdir::inode_at(&self.path) {
                Ok(Some(inode)) if inode == self.inode => {}
                Ok(Some(_)) => return "another directory is in its place".into(),
                Ok(None) => return "its directory was removed".into(),
                Err(e) => return e.to_string(),
            }
            if let Some(fd) = self.heartbeat.as_ref().filter(|_| beaten.elapsed() >= HEARTBEAT) {
                let _ = lockdir::push_mtime(fd, LEAD);
                beaten = clock::now();
            }
        }
    }
}

/// Returns the lock directories of all slots.
pub fn slot_paths(path: &Path, slots: u32) -> impl Iterator<Item = PathBuf> {
    (0..slots).map(move |slot| slot_path(path, slot))
}

/// Returns the lock directory of a slot.
fn slot_path(path: &Path, slot: u32) -> PathBuf {
    if slot == 0 { path.to_owned() } else { lockdir::beside(path, slot) }
}

/// Removes the lock directory if the name leads to the directory behind `fd`; for the guardian, which holds only that. `base` = the first of
/// the slots.
pub fn release_by_fd(path: &Path, base: &Path, fd: &impl std::os::fd::AsFd) {
    if let Ok(inode) = lockdir::inode_of(fd) {
        release(path, inode);
        queue::wake(base);
    }
}

fn release(path: &Path, inode: lockdir::Inode) {
    if !matches!(lockdir::inode_at(path), Ok(Some(now)) if now == inode) {
        return;
    }
    failpoint::pass("lock-release-begin");
    let away = sibling(path, "rel");
    if !matches!(lockdir::publish(path, &away), Ok(true)) {
        return;
    }
    failpoint::pass("lock-release-away");
    if matches!(lockdir::inode_at(&away), Ok(Some(now)) if now == inode) {
        let _ = files::remove_dir(&away);
    } else {
        // Somebody replaced it between the look and the rename: back with it.
        let _ = lockdir::publish(&away, path);
    }
}

#[cfg(test)]
mod tests;
