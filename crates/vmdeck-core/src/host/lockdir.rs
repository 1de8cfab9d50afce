//! A directory as a lock: atomic publish, exchange and removal by name, and a kernel `flock` on its own inode.
//!
//! The rules of the host lock (who may break it, how long to wait) are in `engine::lock`.

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

/// How a folder is opened: as one, never through a link.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The identity of a directory, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    dev: u64,
    ino: u64,
}

/// Returns the inode that a name leads to now; a link is not followed; `None` = there is none.
pub fn inode_at(path: &Path) -> io::Result<Option<Inode>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(Inode { dev: meta.dev(), ino: meta.ino() })),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Returns the path of what stands beside a lock: its own name, a dot and this.
pub fn beside(lock: &Path, what: impl std::fmt::Display) -> PathBuf {
    let mut name = lock.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    lock.with_file_name(name)
}

/// Opens a directory without following a link; fails with `NotADirectory` or `FilesystemLoop` on anything else.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, FOLDER, Mode::empty())?)
}

/// Returns the inode of an open directory.
pub fn inode_of(fd: &impl std::os::fd::AsFd) -> io::Result<Inode> {
    let meta = fs::File::from(fd.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(Inode { dev: meta.dev(), ino: meta.ino() })
}

/// Takes the exclusive lock of an open file or directory unless somebody has it; never waits.
///
/// The kernel frees it when the last descriptor of this opening is gone, however its holder ended.
pub fn try_flock(fd: &impl std::os::fd::AsFd) -> io::Result<bool> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Gives `from` the name `to` if that name is free; `false` = it is taken.
pub fn publish(from: &Path, to: &Path) -> io::Result<bool> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(e) if e == rustix::io::Errno::EXIST || e == rustix::io::Errno::NOTEMPTY => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Swaps two names in one step: at no time is either of them absent.
pub fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

/// Sets a directory's modification time to `lead` from now, through its descriptor.
pub fn push_mtime(fd: &OwnedFd, lead: Duration) -> io::Result<()> {
    let then = super::clock::system() + lead;
    let since = then.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = rustix::fs::Timespec { tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    Ok(rustix::fs::futimens(fd, &rustix::fs::Timestamps { last_access: stamp, last_modification: stamp })?)
}

/// Returns how long ago an open directory was modified by its own account; zero where that lies in the future.
pub fn age(folder: &OwnedFd) -> io::Result<Duration> {
    let modified = fs::File::from(folder.try_clone()?).metadata()?.modified()?;
    Ok(super::clock::system().duration_since(modified).unwrap_or_default())
}

/// Returns whether a name leads to a directory; a link is not followed.
pub fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Returns the kind of the network file system that a folder lies on; `None` = it is local, or cannot be told.
///
/// A flock is not certain there: some take it for this host alone, some lose it, some wait for ever.
#[cfg(target_os = "linux")]
pub fn network_file_system(folder: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(folder).ok()?.f_type;
    network_name(u64::try_from(kind).unwrap_or_default() & 0xffff_ffff)
}

/// Returns the kind of the network file system that a folder lies on; here it cannot be told.
#[cfg(not(target_os = "linux"))]
pub fn network_file_system(_: &Path) -> Option<&'static str> {
    None
}

/// Returns the name of a network file system, by the number that the kernel has for it (linux/magic.h).
#[cfg(target_os = "linux")]
fn network_name(kind: u64) -> Option<&'static str> {
    let known = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xfe53_4d42, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0x00c3_6400, "Ceph"),
        (0x5346_414f, "AFS"),
        (0x7375_7245, "Coda"),
        (0x0bd0_0bd0, "Lustre"),
        (0x0116_1970, "GFS2"),
    ];
    known.iter().find(|row| row.0 == kind).map(|row| row.1)
}

/// Lets every user of this host read a file, or read and enter a folder, whatever our umask is: the others must see who holds a
/// lock, and take the kernel's word for it.
pub fn open_to_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if is_dir(path) { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Returns a name in an open directory that is none of these and not our own passing file; `None` = there is none. A folder of a
/// known name that is not empty counts as well.
pub fn stranger(folder: &OwnedFd, known: &[&str]) -> io::Result<Option<String>> {
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What `files::write_shared` makes on its way.
        let is_passing = name.starts_with(".tmp");
        if matches!(name.as_str(), "." | "..") || is_passing {
            continue;
        }
        let is_full = || {
            let inner = rustix::fs::openat(folder, entry.file_name(), FOLDER, Mode::empty()).ok()?;
            let mut names = rustix::fs::Dir::read_from(&inner).ok()?.flatten();
            names.find(|inner| !matches!(inner.file_name().to_bytes(), b"." | b".."))
        };
        if !known.contains(&name.as_str()) || is_full().is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Returns the user who owns an open directory.
pub fn owner_of(folder: &OwnedFd) -> io::Result<u32> {
    Ok(rustix::fs::fstat(folder)?.st_uid)
}

/// Returns the user who owns a path.
pub fn owner(path: &Path) -> io::Result<u32> {
    Ok(rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?.st_uid)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_numbers() {
        assert_eq!((network_name(0x6969), network_name(0xfe53_4d42)), (Some("NFS"), Some("SMB")));
        // ext4, tmpfs, overlayfs, btrfs, xfs
        for local in [0xef53, 0x0102_1994, 0x794c_7630, 0x9123_683e, 0x5846_5342] {
            assert_eq!(network_name(local), None);
        }
        assert_eq!(network_file_system(Path::new("/proc")), None);
        assert_eq!(network_file_system(Path::new("/no/such/folder")), None);
    }
}
