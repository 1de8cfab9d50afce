//! Files that must be whole and private: atomic writes, 0700 folders, bounded reads.
//!
//! What is in them is their callers' business.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
};

/// Makes a folder that only this user can enter, parents included; an existing one must be ours and is closed to others.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let meta = fs::metadata(path)?;
    if meta.uid() != rustix::process::getuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} belongs to another user", path.display()),
        ));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Writes a file that every user of this host may read, so that a reader sees the old or the new content.
pub fn write_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(path, bytes, 0o644)
}

/// Writes a private file so that a reader sees the old or the new content, and a crash leaves one of them.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(path, bytes, 0o600)
}

fn write_as(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temp = tempfile::NamedTempFile::new_in(dir)?;
    temp.write_all(bytes)?;
    temp.as_file().sync_data()?;
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(mode))?;
    temp.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Writes a program that only this user can read and run, as a whole.
pub fn write_program(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temp = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    temp.write_all(bytes)?;
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o700))?;
    temp.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Returns the name of the user that an open file belongs to, where that is not us.
pub fn owned_by_another(file: &fs::File) -> Option<String> {
    let owner = file.metadata().ok()?.uid();
    (owner != rustix::process::geteuid().as_raw()).then(|| super::info::user_name(owner))
}

/// Opens a file of a private folder that is there, for appending, or makes it.
pub fn open_private(path: &Path) -> io::Result<fs::File> {
    match vmdeck_files::create_new(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => vmdeck_files::open_for_append(path),
        made => made,
    }
}

/// Returns the bytes that a folder and everything in it take on disk; links are not followed.
pub fn disk_usage(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    own + inside.map(|entry| disk_usage(&entry.path())).sum::<u64>()
}

/// Writes and removes this many bytes in a folder: free space on paper may be reserved, or over quota.
pub fn check_room(folder: &Path, bytes: usize) -> io::Result<()> {
    tempfile::tempfile_in(folder)?.write_all(&vec![0; bytes])
}

/// Removes a folder with everything in it; an absent one is fine.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads a file to its end and hands it on, piece by piece.
pub fn read_pieces(file: &mut std::fs::File, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match io::Read::read(file, &mut buffer)? {
            0 => return Ok(()),
            length => take(&buffer[..length]),
        }
    }
}

/// Returns whether a folder is on a file system of another host, or one made by a program: notices of changes may not come from there.
#[cfg(target_os = "linux")]
pub fn is_remote(folder: &Path) -> bool {
    /// NFS, SMB in three versions, 9P, Ceph, FUSE: the numbers of the kernel's `magic.h`.
    const REMOTE: [u64; 7] = [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997, 0x00C3_6400, 0x6573_5546];
    rustix::fs::statfs(folder).is_ok_and(|about| u64::try_from(about.f_type).is_ok_and(|kind| REMOTE.contains(&kind)))
}

/// Returns whether a folder is on a file system of another host; not known on this system.
#[cfg(not(target_os = "linux"))]
pub fn is_remote(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_dir_is_closed_to_others() {
        let home = tempfile::tempdir().expect("tempdir");
        let dir = home.path().join("a/b");
        fs::create_dir_all(&dir).expect("mkdir");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        private_dir(&dir).expect("private");
        assert_eq!(fs::metadata(&dir).expect("meta").permissions().mode() & 0o777, 0o700);
    }
}
