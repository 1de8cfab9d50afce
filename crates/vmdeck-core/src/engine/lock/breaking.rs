//! Removing the locks of the dead, and taking one from the living on a person's word.
//!
//! Who is dead is `judge`'s word.

use super::{
    judge::{self, Standing, look, removable_only_by},
    queue::Ticket,
    release,
};
use crate::host::{clock, files, lockdir, pids};
use std::{fs, io, path::Path, time::Duration};
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::Holder,
};

/// Returns the fault of a dead lock that only another user may remove; the run, `lock status` and `lock break` say the same.
pub(super) fn foreign(fault: Fault, user: &str, path: &Path) -> Fault {
    fault.because(dead_foreign(user)).hint(format!(
        "let user `{user}` run `vmdeck lock break`, or remove `{}` as root; or set `host.lock`",
        path.display()
    ))
}

/// Returns what is to be said about a dead lock of another user in a folder where names belong to their owners.
pub fn dead_foreign(user: &str) -> String {
    format!("its holder is gone, and only user `{user}` or root may remove it")
}

pub(super) fn unusable(path: &Path, error: &io::Error) -> Fault {
    let cannot = Fault::host(format!("cannot use the lock `{}`", path.display()));
    let is_link = path.is_symlink();
    let fault = if is_link { cannot.because("it is a symbolic link") } else { cannot.because(error) };
    match error.kind() {
        kind if is_link || matches!(kind, io::ErrorKind::NotADirectory | io::ErrorKind::DirectoryNotEmpty) => {
            fault.hint("something else is at this path; move it away, or set `host.lock`")
        }
        io::ErrorKind::PermissionDenied => fault.hint("set `host.lock` to a path in a folder that you may write"),
        _ => fault.hint("set `host.lock` to a path on a local file system"),
    }
}

/// Removes private directories of this lock whose makers died between two steps, and a queue in which nobody waits.
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
        let is_lock =
            || lockdir::open(&entry.path()).is_ok_and(|fd| matches!(lockdir::stranger(&fd, judge::FILES), Ok(None)));
        if pid.is_some_and(|pid| pids::lookup(pid).is_none()) && is_lock() {
            let _ = files::remove_dir(&entry.path());
        }
    }
    Ticket::nobody_waits(path);
}

/// Removes a dead lock; refuses one that is alive. `force` also removes one whose holder cannot be proven alive.
pub fn break_dead(path: &Path, force: bool) -> Result<Option<Holder>> {
    let standing = look(path).map_err(|e| unusable(path, &e))?;
    match standing {
        Standing::Free => Ok(None),
        Standing::Dead { inode, guard } => {
            let holder = judge::read_owner(&guard);
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
