//! Who holds a lock directory, and whether that holder is alive.
//!
//! A directory with `owner.json` is ours: its flock alone decides. One without is of the old scripts: there the pid has to
//! do, and a directory without a readable pid counts as "being made" for 30 s.

use crate::host::{clock, info, lockdir, pids};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use vmdeck_model::event::Holder;

/// How long a directory without a pid may exist before it counts as dead.
const NO_PID_GRACE: Duration = Duration::from_secs(30);
/// After this time the old scripts take a lock for dead, whoever holds it.
const SCRIPTS_HOUR: Duration = Duration::from_hours(1);
/// What is in a lock directory: the pid by both, the record by us.
pub(super) const FILES: &[&str] = &["pid", "owner.json"];
/// More bytes than any pid has.
const PID_MAX: u64 = 64;
/// A process that began this much after the pid file was written is not the one that wrote it.
const REUSE_MARGIN: u64 = 2;

/// The state of a lock directory.
#[derive(Debug)]
pub enum Standing {
    /// Nobody holds the lock.
    Free,
    /// A live holder has the lock.
    Live(Holder),
    /// The holder is gone; `guard` holds its flock so that nobody else can break it meanwhile.
    Dead {
        /// The directory that was judged.
        inode: lockdir::Inode,
        /// The flock of the dead holder's directory.
        guard: OwnedFd,
    },
}

/// Judges a lock directory once.
pub fn look(path: &Path) -> io::Result<Standing> {
    Judge::default().look(path)
}

/// Judges a directory, and remembers since when one without a pid has been standing.
#[derive(Debug, Default)]
pub(super) struct Judge {
    without_pid: Option<(lockdir::Inode, clock::Instant)>,
}

impl Judge {
    pub(super) fn look(&mut self, path: &Path) -> io::Result<Standing> {
        let fd = match lockdir::open(path) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Standing::Free),
            // Another user's, closed to us: nothing can be said about it but that it is there.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && lockdir::is_dir(path) => {
                return Ok(Standing::Live(closed(path)));
            }
            Err(e) => return Err(e),
        };
        if !lockdir::try_flock(&fd)? {
            return Ok(Standing::Live(read_owner(&fd)));
        }
        let inode = lockdir::inode_of(&fd)?;
        if lockdir::inode_at(path)? != Some(inode) {
            // It was replaced while it was opened; the next look sees the new one.
            return Ok(Standing::Live(read_owner(&fd)));
        }
        // What is judged dead is removed: a folder of somebody's things must never be.
        if let Some(name) = lockdir::stranger(&fd, FILES)?.or_else(|| foreign_content(&fd).map(str::to_owned)) {
            let why = format!("it is no lock but a folder with other things in it, such as `{name}`");
            return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, why));
        }
        if is_ours(&fd) || self.is_dead_script(&fd, inode) {
            return Ok(Standing::Dead { inode, guard: fd });
        }
        Ok(Standing::Live(read_owner(&fd)))
    }

    fn is_dead_script(&mut self, folder: &OwnedFd, inode: lockdir::Inode) -> bool {
        let Some(pid) = read_pid(folder) else {
            let (seen, since) = *self.without_pid.get_or_insert_with(|| (inode, clock::now()));
            if seen != inode {
                self.without_pid = None;
                return false;
            }
            return since.elapsed() >= NO_PID_GRACE || is_old(lockdir::age(folder), NO_PID_GRACE);
        };
        if !sees_every_pid() {
            // In a container the number means another process, or none: only the scripts' own hour is left.
            return is_old(lockdir::age(folder), SCRIPTS_HOUR);
        }
        let Some(process) = pids::lookup(pid) else {
            // What is hidden is no proof of death.
            return !pids::exists(pid);
        };
        let written = pid_written(folder);
        let written = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(u64::MAX, |d| d.as_secs());
        process.started > written.saturating_add(REUSE_MARGIN)
    }
}

/// Returns whether a directory has stood this long; an age that no directory can have says nothing.
fn is_old(age: io::Result<Duration>, limit: Duration) -> bool {
    age.is_ok_and(|age| age >= limit && age < Duration::from_hours(1_000_000))
}

/// Returns whether a pid that is not there proves that its process is gone.
fn sees_every_pid() -> bool {
    // Tests of the rules run in containers, too.
    cfg!(test) || pids::are_of_the_host()
}

/// Returns who may remove a dead lock, where that is not us: names in a sticky folder belong to their owners.
pub fn removable_only_by(path: &Path) -> Option<String> {
    let (ours, owner) = (rustix::process::geteuid(), lockdir::owner(path).ok()?);
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let meta = fs::metadata(parent).ok()?;
    let sticky = meta.mode() & 0o1000 != 0;
    let may = ours.is_root() || (!sticky && rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok());
    let owns = [owner, meta.uid()].contains(&ours.as_raw());
    (!may && !owns).then(|| info::user_name(owner))
}

/// Returns the name of a file whose content is neither ours nor the scripts': a record that vmdeck never writes, or a text that is
/// too long for a pid.
fn foreign_content(folder: &OwnedFd) -> Option<&'static str> {
    let read =
        |name, limit| vmdeck_files::open_below(folder, name).ok().map(|file| vmdeck_files::read_open(&file, limit));
    if let Some(record) = read("owner.json", vmdeck_files::SMALL) {
        let value = serde_json::from_slice::<serde_json::Value>(&record.unwrap_or_default()).unwrap_or_default();
        if !["pid", "run", "command", "host", "since", "boot"].iter().any(|key| value.get(key).is_some()) {
            return Some("owner.json");
        }
    }
    read("pid", PID_MAX).filter(Result::is_err).map(|_| "pid")
}

/// Returns our record in a lock directory; `None` = vmdeck did not make it: it has none, or one of another user than its own.
///
/// Everything in a lock directory is read below its descriptor, without following a link, and never waits: where others can
/// write, a named pipe or an endless file may lie in a record's place.
fn our_record(folder: &OwnedFd) -> Option<fs::File> {
    let record = vmdeck_files::open_below(folder, "owner.json").ok()?;
    let (of_record, of_folder) = (record.metadata().ok()?.uid(), lockdir::owner_of(folder).ok()?);
    (of_record == of_folder || of_record == 0).then_some(record)
}

fn is_ours(folder: &OwnedFd) -> bool {
    our_record(folder).is_some()
}

/// Returns what is written about the holder; a missing or foreign record leaves only the pid.
pub(super) fn read_owner(folder: &OwnedFd) -> Holder {
    let record = our_record(folder).and_then(|file| vmdeck_files::read_open(&file, vmdeck_files::SMALL).ok());
    let mut holder: Holder = serde_json::from_slice(&record.unwrap_or_default()).unwrap_or_default();
    holder.pid = holder.pid.or_else(|| read_pid(folder));
    if holder.since.is_none() {
        let show = |at| chrono::DateTime::<chrono::Utc>::from(at).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        holder.since = pid_written(folder).map(show);
    }
    holder
}

/// Returns what can be said about the holder of a directory that we may not read.
fn closed(path: &Path) -> Holder {
    let user = lockdir::owner(path).map_or_else(|_| "another user".to_owned(), info::user_name);
    Holder { command: Some(format!("a process of user `{user}`, whose lock is closed to others")), ..Holder::default() }
}

/// Exactly one whole number; anything else is no pid.
fn read_pid(folder: &OwnedFd) -> Option<u32> {
    let file = vmdeck_files::open_below(folder, "pid").ok()?;
    let text = vmdeck_files::read_open(&file, PID_MAX).ok()?;
    std::str::from_utf8(&text).ok()?.trim_end_matches('\n').parse().ok()
}

/// Returns when the pid was written.
fn pid_written(folder: &OwnedFd) -> Option<SystemTime> {
    vmdeck_files::open_below(folder, "pid").and_then(|file| file.metadata()?.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let home = tempfile::tempdir().expect("tempdir");
        let lock = home.path().join("lock.d");
        fs::create_dir(&lock).expect("mkdir");
        for (name, text) in files {
            fs::write(lock.join(name), text).expect("file");
        }
        (home, lock)
    }

    fn is_dead(judge: &mut Judge, lock: &Path) -> bool {
        matches!(judge.look(lock).expect("judged"), Standing::Dead { .. })
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_without_a_pid_is_being_made_for_half_a_minute_and_dead_afterwards() {
        for files in [&[][..], &[("pid", "")], &[("pid", "no number\n")]] {
            let (_home, lock) = folder(files);
            let mut judge = Judge::default();
            assert!(!is_dead(&mut judge, &lock), "{files:?}");
            clock::sleep(NO_PID_GRACE.saturating_sub(Duration::from_secs(1))).await;
            assert!(!is_dead(&mut judge, &lock), "{files:?}");
            clock::sleep(Duration::from_secs(2)).await;
            assert!(is_dead(&mut judge, &lock), "{files:?}");
        }
        // Another folder of the same name begins anew.
        let (home, lock) = folder(&[]);
        let mut judge = Judge::default();
        assert!(!is_dead(&mut judge, &lock));
        clock::sleep(NO_PID_GRACE).await;
        fs::rename(&lock, home.path().join("old")).expect("moved");
        fs::create_dir(&lock).expect("mkdir");
        assert!(!is_dead(&mut judge, &lock));
    }

    #[test]
    fn a_live_script_keeps_its_lock_whatever_the_age_of_its_folder_says() {
        let (_home, lock) = folder(&[("pid", &format!("{}\n", pids::current()))]);
        let hours = |count| clock::system() - Duration::from_hours(count);
        let ahead = clock::system() + Duration::from_hours(100);
        for at in [hours(2), hours(1000), UNIX_EPOCH, ahead] {
            fs::File::open(&lock).and_then(|dir| dir.set_modified(at)).expect("aged");
            assert!(!is_dead(&mut Judge::default(), &lock), "{at:?}");
        }
    }

    #[test]
    fn a_record_that_somebody_else_planted_is_not_ours_and_proves_no_death() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let record = "{\"pid\":4194304,\"run\":\"x\"}";
        let (_home, lock) = folder(&[("pid", &format!("{}\n", pids::current())), ("owner.json", record)]);
        assert!(is_dead(&mut Judge::default(), &lock), "of its folder's owner, and nobody has its flock");
        std::os::unix::fs::chown(lock.join("owner.json"), Some(2001), None).expect("chown");
        assert!(!is_dead(&mut Judge::default(), &lock), "then the pid counts, and that lives");
        let fd = lockdir::open(&lock).expect("open");
        assert_eq!(read_owner(&fd).pid, Some(pids::current()), "nothing of the planted record is told");
    }
}
