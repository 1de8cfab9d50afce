//! Waiting for the lock and taking it: one lock, or some of several slots.
//!
//! Files are looked at on threads of their own: a slow disk, or a hostile file, must not hold the runtime up.

use super::{
    HostLock, LockRequest, UnpublishedLock,
    breaking::{foreign, unusable},
    judge::{Judge, Standing, removable_only_by},
    queue::{self, Ticket},
    slot_paths,
};
use crate::host::{clock, failpoint, files, lockdir};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::Holder,
    quantity::show_duration,
};

/// How often a waiter checks at least: the death of a holder is told by nobody.
const POLL: Duration = Duration::from_millis(200);
/// How often a waiter reports that it waits.
const TELL: Duration = Duration::from_secs(10);
/// How long a lock may lie free while somebody else is first: by then that one does not want it, or cannot.
const FIRST: Duration = Duration::from_secs(1);

/// Waits for the lock. `told` is called at once and every 10 s while another process holds it.
pub async fn acquire(
    request: &LockRequest,
    told: impl FnMut(&Holder, Duration),
    cancel: &CancellationToken,
) -> Result<HostLock> {
    let mut held = acquire_slots(request, 1, 1, told, cancel).await?;
    held.pop().ok_or_else(|| Fault::bug("no lock was held after it was acquired"))
}

/// Waits for one of `slots` locks, then takes up to `wanted` of those that are free: `L`, `L.1`, `L.2` ...
pub async fn acquire_slots(
    request: &LockRequest,
    slots: u32,
    wanted: usize,
    mut told: impl FnMut(&Holder, Duration),
    cancel: &CancellationToken,
) -> Result<Vec<HostLock>> {
    refuse_network(&request.path)?;
    let paths: Vec<PathBuf> = slot_paths(&request.path, slots).collect();
    let start = clock::now();
    let mut last_told: Option<clock::Instant> = None;
    let mut waiter = Waiter { judges: paths.iter().map(|_| Judge::default()).collect(), ..Waiter::default() };
    loop {
        let look = Look { request: request.clone(), paths: paths.clone(), wanted };
        let looked = tokio::task::spawn_blocking(move || (waiter.look(&look), waiter)).await;
        let (seen, returned) = looked.map_err(|e| Fault::bug("the look at the lock panicked").because(e))?;
        waiter = returned;
        let busy = match seen? {
            Seen::Held(locks) => match settle(locks, cancel).await {
                locks if locks.is_empty() => continue,
                locks => return Ok(locks),
            },
            Seen::Moved => continue,
            Seen::Busy(holder) => holder,
        };
        let waited = start.elapsed();
        if let Some(holder) = &busy
            && last_told.is_none_or(|at| at.elapsed() >= TELL)
        {
            told(holder, waited);
            last_told = Some(clock::now());
        }
        if waited >= request.timeout {
            return Err(too_late(request, slots, waited, busy.as_ref()));
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(Fault::cancelled("cannot wait for the lock").because("it was cancelled")),
            () = waiter.until_changed(POLL.min(request.timeout.saturating_sub(waited))) => {}
        }
    }
}

/// Refuses a lock whose file system does not keep one for certain.
fn refuse_network(path: &Path) -> Result<()> {
    let folder = path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let Some(kind) = lockdir::network_file_system(folder) else { return Ok(()) };
    Err(Fault::host(format!("cannot use the lock `{}`", path.display()))
        .because(format!("it is on a network file system ({kind}), where no lock is certain"))
        .hint("set `host.lock` to a path on a local file system"))
}

/// Returns the locks that stand the time in which an old script may still remove them.
async fn settle(locks: Vec<HostLock>, cancel: &CancellationToken) -> Vec<HostLock> {
    let mut settled = Vec::new();
    for lock in locks {
        if !lock.shared || lock.settle(cancel).await {
            settled.push(lock);
        }
    }
    settled
}

fn too_late(request: &LockRequest, slots: u32, waited: Duration, busy: Option<&Holder>) -> Fault {
    let (path, waited) = (request.path.display(), show_duration(waited));
    let (what, why) = match (slots, busy) {
        (1, Some(holder)) => (format!("the lock `{path}`"), format!("it is still held after {waited} by {holder}")),
        (1, None) => (format!("the lock `{path}`"), format!("others were first for {waited}")),
        (_, Some(holder)) => (
            format!("one of {slots} slots of `{path}`"),
            format!("they are all still held after {waited}, one by {holder}"),
        ),
        (_, None) => (format!("one of {slots} slots of `{path}`"), format!("others were first for {waited}")),
    };
    let hint = "`vmdeck lock status` shows the holder; raise `--lock-timeout` to wait longer; `vmdeck lock break` removes a dead one";
    Fault::new(Blame::Lock, format!("cannot acquire {what}")).because(why).hint(hint)
}

/// What a waiter looks at.
struct Look {
    request: LockRequest,
    paths: Vec<PathBuf>,
    wanted: usize,
}

/// What a waiter saw.
enum Seen {
    Held(Vec<HostLock>),
    /// Somebody holds it; `None` = it is free, and somebody else's turn.
    Busy(Option<Holder>),
    /// Something moved meanwhile; look again.
    Moved,
}

/// Somebody who waits for the lock: what is remembered from one look to the next.
#[derive(Default)]
struct Waiter {
    judges: Vec<Judge>,
    /// The place in the queue, once somebody else was seen to hold the lock.
    ticket: Option<Ticket>,
    /// Set while the lock is free and somebody else's turn.
    free: Option<FreeFor>,
}

impl Waiter {
    async fn until_changed(&self, limit: Duration) {
        match &self.ticket {
            Some(ticket) => drop(clock::within(limit, ticket.changed()).await),
            None => clock::sleep(limit).await,
        }
    }

    /// Takes what is free, if it is this waiter's turn.
    fn look(&mut self, look: &Look) -> Result<Seen> {
        let mut held = Vec::new();
        let mut busy = None;
        let mut moved = false;
        for (path, judge) in look.paths.iter().zip(&mut self.judges) {
            let standing = judge.look(path).map_err(|e| unusable(path, &e))?;
            if let Standing::Live(holder) = standing {
                busy = Some(holder);
                continue;
            }
            if !may_go(&mut self.ticket, &mut self.free, &look.request) {
                if held.is_empty() {
                    return Ok(Seen::Busy(None));
                }
                // The further slots are for those who wait.
                break;
            }
            match take(path, &look.request, standing).map_err(|e| unusable(path, &e))? {
                Taken::Acquired(lock) => held.push(lock),
                Taken::Foreign(user) => {
                    let cannot = Fault::new(Blame::Lock, format!("cannot acquire the lock `{}`", path.display()));
                    return Err(foreign(cannot, &user, path));
                }
                Taken::Moved => moved = true,
            }
            if held.len() == look.wanted {
                break;
            }
        }
        if !held.is_empty() {
            // The next in the queue may find another slot.
            self.ticket = None;
            return Ok(Seen::Held(held));
        }
        if moved {
            return Ok(Seen::Moved);
        }
        self.free = None;
        // Without a queue (its folder cannot be made) who looks first is served first.
        self.ticket = self
            .ticket
            .take()
            .filter(Ticket::is_there)
            .or_else(|| Ticket::take(&look.request.path, &look.request.owner).ok());
        Ok(Seen::Busy(busy))
    }
}

/// A lock that lies free while somebody else is first.
struct FreeFor {
    /// The ticket of who is first; `None` = the old scripts are.
    first: Option<String>,
    since: clock::Instant,
}

/// Returns whether this waiter may take a lock that is free: it is the first of the queue, and the old scripts have had their
/// turn. Who is first and does not go is passed over.
fn may_go(ticket: &mut Option<Ticket>, free: &mut Option<FreeFor>, request: &LockRequest) -> bool {
    let mut stands = |first: Option<String>, limit: Duration| {
        let stood = free.take().filter(|free| free.first == first);
        let free = free.insert(stood.unwrap_or_else(|| FreeFor { first, since: clock::now() }));
        free.since.elapsed() >= limit
    };
    if request.shared && queue::was_just_released(&request.path) && !stands(None, queue::YIELD) {
        return false;
    }
    // A newcomer is behind all who wait.
    if ticket.as_ref().is_none_or(|ticket| !ticket.is_there()) {
        if Ticket::nobody_waits(&request.path) {
            return true;
        }
        *ticket = Ticket::take(&request.path, &request.owner).ok();
    }
    let Some(ticket) = ticket else { return true };
    while let Some(first) = ticket.ahead() {
        if !stands(Some(first.clone()), FIRST) {
            return false;
        }
        ticket.pass_over(&first);
    }
    true
}

enum Taken {
    Acquired(HostLock),
    /// It is dead, and only this other user may remove it.
    Foreign(String),
    /// Something moved meanwhile.
    Moved,
}

/// Takes a lock that nobody alive holds.
fn take(path: &Path, request: &LockRequest, standing: Standing) -> io::Result<Taken> {
    if matches!(standing, Standing::Dead { .. })
        && let Some(user) = removable_only_by(path)
    {
        return Ok(Taken::Foreign(user));
    }
    let new = UnpublishedLock::make(path, request)?;
    match standing {
        Standing::Free => {
            failpoint::reach("lock-begin")?;
            if lockdir::publish(&new.path, path)? {
                failpoint::pass("lock-held");
                Ok(Taken::Acquired(new.keep(path, request)))
            } else {
                Ok(Taken::Moved)
            }
        }
        Standing::Dead { inode, guard } => {
            // The dead lock's own flock is held in `guard`: nobody else can be breaking it now.
            if lockdir::inode_at(path)? != Some(inode) {
                return Ok(Taken::Moved);
            }
            failpoint::pass("lock-break-begin");
            lockdir::exchange(&new.path, path)?;
            failpoint::pass("lock-break-done");
            let got = lockdir::inode_at(&new.path)?;
            if got != Some(inode) {
                // Not what was judged: back with it.
                lockdir::exchange(&new.path, path)?;
                return Ok(Taken::Moved);
            }
            files::remove_dir(&new.path)?;
            drop(guard);
            Ok(Taken::Acquired(new.keep(path, request)))
        }
        Standing::Live(_) => Ok(Taken::Moved),
    }
}

/// Takes the lock without regard for the queue and without a pause: contention itself is what a test wants.
#[cfg(test)]
pub(super) async fn at_any_price(request: &LockRequest) -> HostLock {
    let mut judge = Judge::default();
    loop {
        let standing = judge.look(&request.path).expect("usable");
        if !matches!(standing, Standing::Live(_))
            && let Taken::Acquired(lock) = take(&request.path, request, standing).expect("usable")
        {
            return lock;
        }
        tokio::task::yield_now().await;
    }
}
