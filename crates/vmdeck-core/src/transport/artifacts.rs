//! Fetches files from a guest. The archive that comes back is hostile: what is unpacked is decided here, not by it.
//!
//! Only regular files, only below the folder, no execute bit, bounded in number and bytes.

use super::session::FileTransfer;
use crate::command::RemoteCommand;
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::{Fault, Result};

/// Most bytes of all artifacts of one suite.
const BYTES_MAX: u64 = 2 << 30;
/// Most files.
const FILES_MAX: usize = 10_000;

/// Fetches what the globs name below the working directory of `base` into the folder `to`. Returns how many files came, and
/// what the guest complained about.
pub async fn fetch(
    files: &dyn FileTransfer,
    globs: &[String],
    base: &RemoteCommand,
    to: &Path,
    cancel: &CancellationToken,
) -> Result<(usize, Option<String>)> {
    let failed = || Fault::infra("cannot fetch artifacts");
    let archive = tempfile::NamedTempFile::new().map_err(|e| failed().because(e))?;
    let fetched = files.fetch(globs, base, archive.path(), BYTES_MAX, cancel).await;
    let complaint = fetched.map_err(|inner| failed().caused_by(inner))?;
    let file = archive.reopen().map_err(|e| failed().because(e))?;
    let count = unpack(io::BufReader::new(file), to).or_else(|e| match &complaint {
        // What an unfinished archive held is there.
        Some(_) => Ok(0),
        None => Err(failed().because(e)),
    })?;
    Ok((count, complaint))
}

/// Unpacks what is safe; returns how many files it wrote.
fn unpack(archive: impl Read, to: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let Some(path) = safe(&entry.path()?) else { continue };
        if entry.header().entry_type() != tar::EntryType::Regular {
            continue;
        }
        if count >= FILES_MAX {
            return Err(io::Error::other(format!("there are more than {FILES_MAX}")));
        }
        let full = to.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        // A name that exists already is not written again: no link can be followed, because none is ever made.
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&full);
        match made {
            Ok(mut file) => {
                io::copy(&mut entry, &mut file)?;
                count += 1;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(count)
}

/// Returns the path without leading dots, if it stays below the folder and has no control characters.
fn safe(path: &Path) -> Option<PathBuf> {
    let text = path.to_str()?;
    if text.chars().any(char::is_control) {
        return None;
    }
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw_entry(
        tar: &mut tar::Builder<Vec<u8>>,
        name: &str,
        kind: tar::EntryType,
        link: &str,
        mode: u32,
        body: &[u8],
    ) {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the builder itself refuses such names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(body.len() as u64);
        header.set_cksum();
        tar.append(&header, body).expect("append");
    }

    #[test]
    fn a_hostile_archive_writes_nothing_outside_and_nothing_executable() {
        use tar::EntryType as T;
        let home = tempfile::tempdir().expect("tempdir");
        let to = home.path().join("artifacts");
        fs::create_dir(&to).expect("mkdir");
        let mut tar = tar::Builder::new(Vec::new());
        raw_entry(&mut tar, "../escaped", T::Regular, "", 0o644, b"x");
        raw_entry(&mut tar, "/etc/escaped-vmdeck", T::Regular, "", 0o644, b"x");
        raw_entry(&mut tar, "link", T::Symlink, "..", 0o777, b"");
        raw_entry(&mut tar, "link/through", T::Regular, "", 0o644, b"x");
        raw_entry(&mut tar, "hard", T::Link, "/etc/passwd", 0o644, b"");
        raw_entry(&mut tar, "fifo", T::Fifo, "", 0o644, b"");
        raw_entry(&mut tar, "./target/run.sh", T::Regular, "", 0o4755, b"good");
        raw_entry(&mut tar, "./target/run.sh", T::Regular, "", 0o755, b"again");
        let bytes = tar.into_inner().expect("tar");
        unpack(&bytes[..], &to).expect("unpacked");
        let out: Vec<_> = fs::read_dir(home.path()).expect("dir").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(out, ["artifacts"]);
        assert!(!Path::new("/etc/escaped-vmdeck").exists());
        assert!(to.join("link").is_dir(), "the link was not made, the folder was");
        assert!(!to.join("hard").exists() && !to.join("fifo").exists());
        let run = to.join("target/run.sh");
        assert_eq!(fs::read(&run).expect("file"), b"good");
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(run).expect("meta").permissions()) & 0o7111,
            0
        );
    }
}
