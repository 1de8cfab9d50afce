//! The host lock: one run at a time on this host, other copies of vmdeck and the old scripts included.
//!
//! Who is alive is known from a kernel `flock` on the lock directory's own inode, held until the last process that needs
//! the lock is gone: never from a pid, an age or a clock. Publishing is a rename onto a free name; breaking a dead lock is
//! an exchange of names while holding the dead lock's own flock; release renames the directory away and looks at what it
//! got. With the old scripts on the same path (they break locks by age, and remove what they have not looked at), the
//! lock is used only after it has stood for 2.5 s, and its time stamp is kept in the future.

mod judge;

use crate::host::{clock, files, info, lockdir, pids};
pub use judge::{Standing, look, removable_only_by};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::Holder,
    quantity::show_duration,
};

/// How often a waiter checks.
const POLL: Duration = Duration::from_millis(200);
/// How often a waiter reports that it waits.
const TELL: Duration = Duration::from_secs(10);
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
    fd: OwnedFd,
    inode: lockdir::Inode,
    shared: bool,
    owner: Holder,
}

/// Waits for the lock. `told` is called at once and every 10 s while another process holds it.
pub async fn acquire(
    request: &LockRequest,
    mut told: impl FnMut(&Holder, Duration),
    cancel: &CancellationToken,
) -> Result<HostLock> {
    let start = clock::now();
    let mut last_told: Option<clock::Instant> = None;
    let mut judge = judge::Judge::default();
    let cannot = || Fault::new(Blame::Lock, format!("cannot acquire the lock `{}`", request.path.display()));
    loop {
        let holder = match attempt(request, &mut judge).map_err(|e| unusable(&request.path, &e))? {
            AcquireAttempt::Acquired(lock) => {
                if !request.shared || lock.settle(cancel).await {
                    return Ok(lock);
                }
                continue;
            }
            AcquireAttempt::Busy(holder) => holder,
            AcquireAttempt::Foreign(user) => return Err(foreign(cannot(), &user, &request.path)),
            AcquireAttempt::Again => continue,
        };
        let waited = start.elapsed();
        if last_told.is_none_or(|at| at.elapsed() >= TELL) {
            told(&holder, waited);
            last_told = Some(clock::now());
        }
        if waited >= request.timeout {
            return Err(cannot()
                .because(format!("it is still held after {} by {holder}", show_duration(waited)))
                .hint("`vmdeck lock status` shows the holder; raise `--lock-timeout` to wait longer; `vmdeck lock break` removes a dead one"));
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(Fault::cancelled("cannot wait for the lock").because("it was cancelled")),
            () = clock::sleep(POLL.min(request.timeout.saturating_sub(waited))) => {}
        }
    }
}

/// Returns the fault of a dead lock that only another user may remove; the run, `lock status` and `lock break` say the same.
fn foreign(fault: Fault, user: &str, path: &Path) -> Fault {
    fault.because(dead_foreign(user)).hint(format!(
        "let user `{user}` run `vmdeck lock break`, or remove `{}` as root; or set `host.lock`",
        path.display()
    ))
}

/// Returns what is to be said about a dead lock of another user in a folder where names belong to their owners.
pub fn dead_foreign(user: &str) -> String {
    format!("its holder is gone, and only user `{user}` or root may remove it")
}

fn unusable(path: &Path, error: &io::Error) -> Fault {
    let fault = Fault::host(format!("cannot use the lock `{}`", path.display())).because(error);
    // A link gives ELOOP, for which the standard library has no stable name.
    let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    match error.kind() {
        kind if is_link || kind == io::ErrorKind::NotADirectory => {
            fault.hint("something else is at this path; move it away, or set `host.lock`")
        }
        io::ErrorKind::PermissionDenied => fault.hint("set `host.lock` to a path in a folder that you may write"),
        _ => fault.hint("set `host.lock` to a path on a local file system"),
    }
}

enum AcquireAttempt {
    Acquired(HostLock),
    Busy(Holder),
    /// It is dead, and only this other user may remove it.
    Foreign(String),
    /// Something moved meanwhile; look again.
    Again,
}

fn attempt(request: &LockRequest, judge: &mut judge::Judge) -> io::Result<AcquireAttempt> {
    // Cheap look first: nothing is written while somebody else clearly holds it.
    let standing = judge.look(&request.path)?;
    if let Standing::Live(holder) = standing {
        return Ok(AcquireAttempt::Busy(holder));
    }
    if matches!(standing, Standing::Dead { .. })
        && let Some(user) = removable_only_by(&request.path)
    {
        return Ok(AcquireAttempt::Foreign(user));
    }
    let new = UnpublishedLock::make(request)?;
    match standing {
        Standing::Free => {
            if lockdir::publish(&new.path, &request.path)? {
                Ok(AcquireAttempt::Acquired(new.keep(request)))
            } else {
                Ok(AcquireAttempt::Again)
            }
        }
        Standing::Dead { inode, guard } => {
            // The dead lock's own flock is held in `guard`: nobody else can be breaking it now.
            if lockdir::inode_at(&request.path)? != Some(inode) {
                return Ok(AcquireAttempt::Again);
            }
            lockdir::exchange(&new.path, &request.path)?;
            let got = lockdir::inode_at(&new.path)?;
            if got != Some(inode) {
                // Not what was judged: back with it.
                lockdir::exchange(&new.path, &request.path)?;
                return Ok(AcquireAttempt::Again);
            }
            files::remove_dir(&new.path)?;
            drop(guard);
            Ok(AcquireAttempt::Acquired(new.keep(request)))
        }
        Standing::Live(_) => Ok(AcquireAttempt::Again),
    }
}

/// A complete lock directory under a private name: the public name never shows a half-made one.
struct UnpublishedLock {
    path: PathBuf,
    fd: Option<OwnedFd>,
    inode: lockdir::Inode,
}

impl UnpublishedLock {
    fn make(request: &LockRequest) -> io::Result<Self> {
        let path = sibling(&request.path, "new");
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

    fn keep(mut self, request: &LockRequest) -> HostLock {
        let fd = self.fd.take();
        // `fd` is there: only `keep` takes it, and it consumes the value.
        let fd = fd.unwrap_or_else(|| unreachable!("kept once"));
        HostLock {
            path: request.path.clone(),
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
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}.{}.{:08x}", pids::current(), fastrand::u32(..)));
    path.with_file_name(name)
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
        if self.is_ours() && files::write_atomic(&self.path.join(name), bytes).is_ok() && self.shared {
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
        release(&self.path, self.inode);
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

/// Waits for one of `slots` locks, then takes up to `wanted` of those that are free: `L`, `L.1`, `L.2` ...
pub async fn acquire_slots(
    request: &LockRequest,
    slots: u32,
    wanted: usize,
    mut told: impl FnMut(&Holder, Duration),
    cancel: &CancellationToken,
) -> Result<Vec<HostLock>> {
    let paths: Vec<PathBuf> = slot_paths(&request.path, slots).collect();
    let start = clock::now();
    let mut last_told: Option<clock::Instant> = None;
    loop {
        let mut held = Vec::new();
        let mut busy = Holder::default();
        for path in &paths {
            let one = LockRequest { path: path.clone(), timeout: Duration::ZERO, ..request.clone() };
            match acquire(&one, |holder, _| busy = holder.clone(), cancel).await {
                Ok(lock) => held.push(lock),
                Err(fault) if fault.blame() == Blame::Lock => {}
                Err(fault) => {
                    held.into_iter().for_each(HostLock::release);
                    return Err(fault);
                }
            }
            if held.len() == wanted {
                break;
            }
        }
        let waited = start.elapsed();
        if !held.is_empty() {
            return Ok(held);
        }
        if last_told.is_none_or(|at| at.elapsed() >= TELL) {
            told(&busy, waited);
            last_told = Some(clock::now());
        }
        if waited >= request.timeout {
            return Err(Fault::new(
                Blame::Lock,
                format!("cannot acquire one of {slots} slots of `{}`", request.path.display()),
            )
            .because(format!("they are all still held after {}, one by {busy}", show_duration(waited)))
            .hint("`vmdeck lock status` shows the holders; raise `--lock-timeout` to wait longer"));
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(Fault::cancelled("cannot wait for a slot").because("it was cancelled")),
            () = clock::sleep(POLL) => {}
        }
    }
}

/// Returns the lock directories of all slots.
pub fn slot_paths(path: &Path, slots: u32) -> impl Iterator<Item = PathBuf> {
    (0..slots).map(move |slot| slot_path(path, slot))
}

/// Returns the lock directory of a slot.
fn slot_path(path: &Path, slot: u32) -> PathBuf {
    if slot == 0 {
        return path.to_owned();
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{slot}"));
    path.with_file_name(name)
}

/// Removes the lock directory if the name leads to the directory behind `fd`; for the guardian, which holds only that.
pub fn release_by_fd(path: &Path, fd: &impl std::os::fd::AsFd) {
    if let Ok(inode) = lockdir::inode_of(fd) {
        release(path, inode);
    }
}

fn release(path: &Path, inode: lockdir::Inode) {
    if !matches!(lockdir::inode_at(path), Ok(Some(now)) if now == inode) {
        return;
    }
    let away = sibling(path, "rel");
    if !matches!(lockdir::publish(path, &away), Ok(true)) {
        return;
    }
    if matches!(lockdir::inode_at(&away), Ok(Some(now)) if now == inode) {
        let _ = files::remove_dir(&away);
    } else {
        // Somebody replaced it between the look and the rename: back with it.
        let _ = lockdir::publish(&away, path);
    }
}

/// Removes private directories of this lock whose makers died between two steps.
pub fn sweep_private(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else { return };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let found = entry.file_name().into_string().unwrap_or_default();
        let Some(rest) =
            found.strip_prefix(name).and_then(|r| r.strip_prefix(".new.").or_else(|| r.strip_prefix(".rel.")))
        else {
            continue;
        };
        let pid = rest.split('.').next().and_then(|p| p.parse().ok());
        if pid.is_some_and(|pid| pids::lookup(pid).is_none()) {
            let _ = files::remove_dir(&entry.path());
        }
    }
}

/// Removes a dead lock; refuses one that is alive. `force` also removes one whose holder cannot be proven alive.
pub fn break_dead(path: &Path, force: bool) -> Result<Option<Holder>> {
    let standing = look(path).map_err(|e| unusable(path, &e))?;
    match standing {
        Standing::Free => Ok(None),
        Standing::Dead { inode, guard } => {
            let holder = judge::read_owner(path);
            release(path, inode);
            drop(guard);
            if matches!(lockdir::inode_at(path), Ok(Some(now)) if now == inode) {
                let cannot = Fault::new(Blame::Lock, format!("cannot break the lock `{}`", path.display()));
                return Err(match removable_only_by(path) {
                    Some(user) => foreign(cannot, &user, path),
                    None => cannot.because("its directory cannot be renamed").hint("remove it by hand"),
                });
            }
            Ok(Some(holder))
        }
        Standing::Live(holder) => {
            if force && !is_flocked(path) {
                if let Ok(Some(inode)) = lockdir::inode_at(path) {
                    release(path, inode);
                }
                return Ok(Some(holder));
            }
            let hint = "end that process, or wait for it; `--force` removes a lock of the old scripts, never one that vmdeck holds";
            Err(Fault::new(Blame::Lock, format!("cannot break the lock `{}`", path.display()))
                .because(format!("its holder is alive: {holder}"))
                .hint(hint))
        }
    }
}

/// Takes the lock away from a holder that lives; a vmdeck finds that out within a second and ends its run as infra. `pid`
/// must be that holder's, so that a person has seen whom they take it from.
pub fn take_away(path: &Path, pid: u32) -> Result<Holder> {
    let cannot = || Fault::new(Blame::Lock, format!("cannot take the lock `{}` from its holder", path.display()));
    // First which directory it is: one that has another holder by the end is not touched.
    let inode = lockdir::inode_at(path).map_err(|e| unusable(path, &e))?;
    match (look(path).map_err(|e| unusable(path, &e))?, inode) {
        (Standing::Live(holder), Some(inode)) if holder.pid == Some(pid) => {
            release(path, inode);
            Ok(holder)
        }
        (Standing::Live(holder), _) => Err(cannot().because(format!("it is held by {holder} now"))),
        _ => Err(cannot().because("no live process holds it").hint("`vmdeck lock break` removes a dead one")),
    }
}

/// Returns whether somebody holds the directory's flock, checked until it is sure: a process that is just being started
/// holds copies of all our descriptors for a moment.
fn is_flocked(path: &Path) -> bool {
    (0..20).all(|turn| {
        if turn > 0 {
            clock::block(Duration::from_millis(5));
        }
        lockdir::open(path).and_then(|fd| lockdir::try_flock(&fd)).map_or(true, |free| !free)
    })
}

#[cfg(test)]
mod tests;
