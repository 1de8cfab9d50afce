//! Fetches files from a guest. The archive that comes back is hostile: what is unpacked is decided here, not by it.
//!
//! Only regular files, only those that were asked for, only below the folder, no execute bit, bounded in number and bytes. What
//! does not come is named with its reason.

use super::{artifact_globs::ArtifactGlobs, session::FileTransfer};
use crate::command::RemoteCommand;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Component, Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    text::Clean,
};

/// The most bytes of all artifacts of one suite.
const BYTES_MAX: u64 = 2 << 30;
/// The most files of all artifacts of one suite.
const FILES_MAX: usize = 10_000;
/// Most reasons that are told one by one.
const REASONS: usize = 8;

/// What came of the artifacts of one suite.
#[derive(Debug, Default)]
pub struct FetchedArtifacts {
    /// How many files came.
    pub count: usize,
    /// What did not come, each with its reason.
    reasons: Vec<String>,
    /// Whether there were more reasons than are kept.
    more: usize,
}

impl FetchedArtifacts {
    /// Returns what did not come, and why, as a sentence; `None` = everything did.
    pub fn missing(&self) -> Option<String> {
        if self.reasons.is_empty() {
            return None;
        }
        let more = if self.more > 0 { format!("; and {} more", self.more) } else { String::new() };
        Some(format!("some artifacts are missing: {}{more}", self.reasons.join("; ")))
    }

    fn lacks(&mut self, reason: &str) {
        if self.reasons.len() < REASONS {
            self.reasons.push(Clean::from_text(reason).into_string());
        } else {
            self.more += 1;
        }
    }
}

/// Fetches what the globs name below the working directory of `base` into the folder `to`.
pub async fn fetch(
    files: &dyn FileTransfer,
    globs: &[String],
    base: &RemoteCommand,
    to: &Path,
    cancel: &CancellationToken,
) -> Result<FetchedArtifacts> {
    let failed = || Fault::infra("cannot fetch artifacts");
    let archive = tempfile::NamedTempFile::new().map_err(|e| failed().because(e))?;
    let fetched = files.fetch(globs, base, archive.path(), BYTES_MAX, cancel).await;
    let complaints = fetched.map_err(|inner| failed().caused_by(inner))?;
    let file = archive.reopen().map_err(|e| failed().because(e))?;
    let wanted = ArtifactGlobs::new(globs);
    let mut unpacking = Unpacking::new(to, &wanted);
    unpacking.complained = !complaints.is_empty();
    for line in &complaints {
        unpacking.out.lacks(line);
    }
    if let Err(e) = unpacking.all(io::BufReader::new(file)) {
        // What an unfinished archive held is there.
        unpacking.out.lacks(&format!("the archive ended early: {e}"));
    }
    Ok(unpacking.finish())
}

/// One archive on its way to a folder.
struct Unpacking<'a> {
    to: &'a Path,
    wanted: &'a ArtifactGlobs,
    /// Which globs have named something.
    seen: Vec<bool>,
    /// Where each name of the archive was written, for the links to it.
    written: BTreeMap<PathBuf, PathBuf>,
    /// Whether the guest complained.
    complained: bool,
    out: FetchedArtifacts,
}

impl<'a> Unpacking<'a> {
    fn new(to: &'a Path, wanted: &'a ArtifactGlobs) -> Self {
        let seen = vec![false; wanted.len()];
        let written = BTreeMap::new();
        Self { to, wanted, seen, written, complained: false, out: FetchedArtifacts::default() }
    }
}

impl Unpacking<'_> {
    fn all(&mut self, archive: impl Read) -> io::Result<()> {
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let raw = entry.path_bytes().into_owned();
            let Some(path) = safe(&raw) else {
                self.out.lacks(&format!("`{}` is not a safe name", raw.escape_ascii()));
                continue;
            };
            let globs = self.wanted.of(&path);
            if globs.is_empty() {
                // The guest's shell only narrows down.
                continue;
            }
            for at in globs {
                self.seen[at] = true;
            }
            if self.out.count >= FILES_MAX {
                self.out.lacks(&format!("there are more than {FILES_MAX} files"));
                return Ok(());
            }
            match self.take(&mut entry, path.clone()) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(e),
                Err(e) => {
                    self.out.lacks(&format!("`{}`: {e}", path.display()));
                    // A full disk takes nothing more.
                    if e.kind() == io::ErrorKind::StorageFull {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes one entry, if it is a file.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: PathBuf) -> io::Result<()> {
        use tar::EntryType;
        let full = self.to.join(&path);
        let made = match entry.header().entry_type() {
            EntryType::Directory => return Ok(()),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => make(&full, entry)?,
            EntryType::Link => {
                let link = entry.link_name_bytes().and_then(|link| safe(&link));
                let first = link.and_then(|link| self.written.get(&link));
                let lacking = || io::Error::other("it is a hard link to a file that did not come");
                make(&full, &mut fs::File::open(first.ok_or_else(lacking)?)?)?
            }
            _ => return Err(io::Error::other("it is not a regular file")),
        };
        if made {
            self.out.count += 1;
            self.written.insert(path, full);
        }
        Ok(())
    }

    fn finish(mut self) -> FetchedArtifacts {
        for at in 0..self.wanted.len() {
            if !self.seen[at] {
                let glob = self.wanted.written(at);
                // A guest that could not pack has not said that there is nothing.
                self.out.lacks(&if self.complained && self.out.count == 0 {
                    format!("nothing came for `{glob}`")
                } else {
                    format!("no file matches `{glob}`")
                });
            }
        }
        self.out
    }
}

/// Writes a file that does not exist yet; `false` = it does, and stays as it is. No link can be followed, because none is ever
/// made.
fn make(path: &Path, content: &mut impl Read) -> io::Result<bool> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Ok(mut file) => io::copy(content, &mut file).map(|_| true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Returns the path without leading dots, if it stays below the folder and has no control characters. A name need not be text.
fn safe(raw: &[u8]) -> Option<PathBuf> {
    if raw.iter().any(u8::is_ascii_control) {
        return None;
    }
    let mut out = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(raw)).components() {
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

    fn unpack(bytes: &[u8], to: &Path, globs: &[String]) -> FetchedArtifacts {
        let wanted = ArtifactGlobs::new(globs);
        let mut unpacking = Unpacking::new(to, &wanted);
        if let Err(e) = unpacking.all(bytes) {
            unpacking.out.lacks(&e.to_string());
        }
        unpacking.finish()
    }

    #[test]
    fn one_file_that_cannot_be_written_does_not_cost_the_others_and_a_cut_archive_is_told() {
        let home = tempfile::tempdir().expect("tempdir");
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header.clone(), "n".repeat(300), &b"x"[..]).expect("entry");
        tar.append_data(&mut header, std::ffi::OsStr::from_bytes(b"l\xe4tin"), &b"x"[..]).expect("entry");
        raw_entry(&mut tar, "cut", tar::EntryType::Regular, "", 0o644, &[b'x'; 2000]);
        let bytes = tar.into_inner().expect("tar");
        let fetched = unpack(&bytes[..bytes.len() - 2500], home.path(), &["*".to_owned()]);
        let said = fetched.missing().expect("reasons");
        assert!(home.path().join(OsStr::from_bytes(b"l\xe4tin")).exists(), "{said}");
        assert!(said.contains("nnn") && said.contains("too long"), "{said}");
        assert!(
            said.contains("unexpected end") || said.contains("EOF") || said.contains("fill whole buffer"),
            "{said}"
        );
    }

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
        raw_entry(&mut tar, "./target/same", T::Link, "./target/run.sh", 0o644, b"");
        raw_entry(&mut tar, "unasked", T::Regular, "", 0o644, b"x");
        let long = "x".repeat(99);
        raw_entry(&mut tar, &long, T::Regular, "", 0o644, b"x");
        let bytes = tar.into_inner().expect("tar");
        let globs: Vec<String> =
            ["link", "hard", "fifo", "target", "x*", "none", "../escaped"].iter().map(|g| (*g).to_owned()).collect();
        let fetched = unpack(&bytes, &to, &globs);
        assert_eq!(fetched.count, 4, "run.sh, the link to it, what is below a name that is a link, and the long name");
        let said = fetched.missing().expect("reasons");
        for reason in [
            "`../escaped` is not a safe name",
            "`link`: it is not a regular file",
            "`hard`: it is a hard link to a file that did not come",
            "`fifo`: it is not a regular file",
            "no file matches `none`",
        ] {
            assert!(said.contains(reason), "{reason}: {said}");
        }
        assert!(!to.join("unasked").exists());
        assert_eq!(fs::read(to.join("target/same")).expect("link"), b"good");
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
