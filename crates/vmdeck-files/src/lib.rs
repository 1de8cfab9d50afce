//! Opens and reads files that somebody else may have put there (a lock in `/tmp`, a record, the config of a strange repository),
//! and writes files that are nobody else's business.
//!
//! A named pipe would make its reader wait for ever, a device or an endless file would fill the memory. So only regular files
//! are opened, without waiting, and no more than a limit is read. What is written only this user can read. What a file means is
//! its reader's business.

use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

/// The most bytes of a small file that people or vmdeck write: a setting, a key, a note.
pub const SMALL: u64 = 1 << 20;
/// The most bytes of a config, a journal or a script.
pub const LARGE: u64 = 64 << 20;

/// Opens a regular file for reading; a link to one is followed. Fails at once on anything else.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(CWD, path, OFlags::RDONLY)
}

/// Opens a regular file for reading and for appending; a link to one is followed. Fails at once on anything else.
pub fn open_for_append(path: &Path) -> io::Result<File> {
    open_with(CWD, path, OFlags::RDWR | OFlags::APPEND)
}

/// Opens a regular file of an open folder for reading; a link is not followed.
pub fn open_below(folder: impl AsFd, name: &str) -> io::Result<File> {
    open_with(folder, Path::new(name), OFlags::RDONLY | OFlags::NOFOLLOW)
}

fn open_with(folder: impl AsFd, path: &Path, flags: OFlags) -> io::Result<File> {
    let follow = if flags.contains(OFlags::NOFOLLOW) {
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW
    } else {
        rustix::fs::AtFlags::empty()
    };
    // Looked at first, because opening a device can do something; and again below, because it may be another one by then.
    let mode = rustix::fs::statat(&folder, path, follow)?.st_mode;
    must_be_regular(FileType::from_raw_mode(mode))?;
    let file =
        rustix::fs::openat(folder, path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    must_be_regular(FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode))?;
    Ok(file.into())
}

fn must_be_regular(kind: FileType) -> io::Result<()> {
    let (error, what) = match kind {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => (io::ErrorKind::IsADirectory, "a folder"),
        FileType::Fifo => (io::ErrorKind::InvalidInput, "a named pipe"),
        FileType::Socket => (io::ErrorKind::InvalidInput, "a socket"),
        FileType::Symlink => (io::ErrorKind::InvalidInput, "a link"),
        FileType::CharacterDevice | FileType::BlockDevice => (io::ErrorKind::InvalidInput, "a device"),
        FileType::Unknown => (io::ErrorKind::InvalidInput, "something unknown"),
    };
    Err(io::Error::new(error, format!("it is {what}, not a regular file")))
}

/// Reads a regular file of at most `limit` bytes; a link to one is followed.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_open(&open(path)?, limit)
}

/// Reads a regular file of at most `limit` bytes of UTF-8 text; a link to one is followed.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
    String::from_utf8(read(path, limit)?).map_err(not_text)
}

/// Reads the rest of an open file, which may be at most `limit` bytes.
pub fn read_open(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {} MiB", limit >> 20));
    let size = file.metadata()?.len();
    if size > limit {
        return Err(too_large());
    }
    let mut out = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    // It may have grown since, or have no size that it would tell.
    if file.take(limit + 1).read_to_end(&mut out)? as u64 > limit {
        return Err(too_large());
    }
    Ok(out)
}

/// Returns the last `limit` bytes of a file; empty if it cannot be read.
pub fn read_tail(path: &Path, limit: u64) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(limit)))?;
        let mut out = Vec::new();
        file.take(limit).read_to_end(&mut out)?;
        Ok(out)
    };
    read().unwrap_or_default()
}

/// Makes a folder that only this user can enter, and the folders above it likewise; those that are there stay as they are.
pub fn make_folders(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a file that is not there yet, for appending, which only this user can read. Not even a link that leads nowhere is
/// followed.
pub fn create_new(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().create_new(true).append(true).read(true).mode(0o600).open(path)
}

/// Makes an empty file that only this user can read, or empties the regular file that is there; follows no link.
pub fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?);
    must_be_regular(FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode))?;
    file.set_len(0)?;
    Ok(file)
}

/// Writes a file that only this user can read, in place of the regular file that is there; follows no link.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Why a file is no place for a key or a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Others than the owner can read or write it.
    Open,
    /// It belongs to this other user, by number.
    Foreign(u32),
}

/// Returns why a file is no place for a key or a password, where it is none: whoever else can read or write it has the secret, or
/// chooses it.
pub fn exposure(path: &Path) -> io::Result<Option<Exposure>> {
    let meta = open(path)?.metadata()?;
    let trusted = [rustix::process::geteuid().as_raw(), 0].contains(&meta.uid());
    Ok(if !trusted {
        Some(Exposure::Foreign(meta.uid()))
    } else if meta.mode() & 0o077 != 0 {
        Some(Exposure::Open)
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| home.path().join(name);
        rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("fifo");
        fs::create_dir(path("folder")).expect("folder");
        symlink("/dev/zero", path("zero")).expect("link");
        symlink("nowhere", path("dangling")).expect("link");
        symlink("loop", path("loop")).expect("link");
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("socket");
        File::create(path("sparse")).and_then(|file| file.set_len(3 << 30)).expect("sparse");
        for (name, why) in [
            ("fifo", "a named pipe"),
            ("folder", "a folder"),
            ("zero", "a device"),
            ("dangling", "No such file"),
            ("loop", "symbolic link"),
            ("socket", "a socket"),
            ("sparse", "larger than 1 MiB"),
        ] {
            let error = read(&path(name), SMALL).expect_err(name).to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
        assert!(open_for_append(&path("fifo")).is_err());
    }

    #[test]
    fn a_file_that_others_can_read_or_exchange_is_no_place_for_a_secret() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("secret");
        fs::write(&path, "x").expect("file");
        for (mode, why) in [(0o600, None), (0o400, None), (0o640, Some(Exposure::Open)), (0o666, Some(Exposure::Open))]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(exposure(&path).expect("there"), why, "{mode:o}");
        }
        assert!(exposure(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn what_is_written_is_private_and_never_goes_through_a_link_or_into_a_pipe() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| home.path().join(name);
        make_folders(&path("a/b")).expect("folders");
        write(&path("a/b/file"), b"long text").expect("written");
        write(&path("a/b/file"), b"text").expect("written again");
        assert_eq!(read(&path("a/b/file"), SMALL).expect("read"), b"text");
        for (name, mode) in [("a", 0o700), ("a/b", 0o700), ("a/b/file", 0o600)] {
            assert_eq!(fs::metadata(path(name)).expect("meta").mode() & 0o777, mode, "{name}");
        }
        rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("fifo");
        symlink("nowhere", path("link")).expect("link");
        assert!(write(&path("fifo"), b"x").is_err() && write(&path("link"), b"x").is_err());
        assert!(create_new(&path("link")).is_err() && !path("nowhere").exists());
    }

    #[test]
    fn below_a_folder_no_link_is_followed() {
        let home = tempfile::tempdir().expect("tempdir");
        fs::write(home.path().join("file"), "text").expect("file");
        symlink("file", home.path().join("link")).expect("link");
        let folder = File::open(home.path()).expect("folder");
        assert_eq!(read_open(&open_below(&folder, "file").expect("file"), SMALL).expect("read"), b"text");
        assert!(open_below(&folder, "link").expect_err("link").to_string().contains("a link"));
        assert_eq!(read_text(&home.path().join("link"), SMALL).expect("a person's own link"), "text");
    }

    #[test]
    fn the_tail_is_bounded() {
        let home = tempfile::tempdir().expect("tempdir");
        let file = home.path().join("f");
        fs::write(&file, b"0123456789").expect("write");
        assert_eq!(read_tail(&file, 4), b"6789");
        assert_eq!(read_tail(&file, 400), b"0123456789");
        assert!(read_tail(&home.path().join("none"), 4).is_empty());
    }
}
