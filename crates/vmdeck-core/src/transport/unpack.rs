//! Unpacks an archive that a guest has packed. It is hostile: what is unpacked is decided here, not by it.
//!
//! Only regular files, only those that were asked for, only below the folder, no execute bit, bounded in number, depth, folders
//! and bytes; it ends soon after it is cancelled. What does not come is named with its reason.

use super::{artifact_globs::ArtifactGlobs, cancellable::Cancellable, session::Received};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{quantity::show_size, text::Clean};

/// The most files of all artifacts of one suite.
const FILES_MAX: usize = 10_000;
/// The most folders that are made for them.
const FOLDERS_MAX: usize = 10_000;
/// The most folders that a file may be in.
const DEPTH_MAX: usize = 100;
/// The most bytes of a name; no system takes one as long.
const NAME_MAX: u64 = 64 * 1024;
/// The most bytes of the attributes of one file.
const ATTRIBUTES_MAX: u64 = 1 << 20;
/// Most reasons that are told one by one.
const REASONS: usize = 8;

/// What came of the artifacts of one suite.
#[derive(Debug, Default)]
pub struct FetchedArtifacts {
    /// How many files came.
    pub count: usize,
    /// What did not come, each with its reason.
    reasons: Vec<String>,
    /// How many more reasons there were.
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

/// One archive on its way to a folder.
pub(super) struct Unpacking {
    to: PathBuf,
    wanted: ArtifactGlobs,
    /// Which globs have named something.
    seen: Vec<bool>,
    /// Where each name of the archive was written, for the links to it.
    written: BTreeMap<PathBuf, PathBuf>,
    /// How many folders were made.
    folders: usize,
    /// How many bytes may still be written.
    left: u64,
    limit: u64,
    /// Whether the guest complained.
    complained: bool,
    /// Whether it is known, and told, that the archive has no end.
    is_cut: bool,
    cancel: CancellationToken,
    out: FetchedArtifacts,
}

/// What an archive says about the next file in headers of their own.
#[derive(Default)]
struct Announced {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// Why the file cannot be taken.
    unusable: Option<&'static str>,
    /// The size, where the file's own header cannot hold it.
    size: Option<u64>,
}

impl Unpacking {
    /// Returns an unpacking of what these globs name into the folder `to`, of at most `limit` bytes; `received` says what is known to be missing.
    pub(super) fn new(
        to: &Path,
        globs: &[String],
        limit: u64,
        received: &Received,
        cancel: &CancellationToken,
    ) -> Self {
        let wanted = ArtifactGlobs::new(globs);
        let mut out = FetchedArtifacts::default();
        let complained = !received.complaints.is_empty();
        for line in &received.complaints {
            out.lacks(line);
        }
        Self {
            to: to.to_owned(),
            seen: vec![false; wanted.len()],
            wanted,
            written: BTreeMap::new(),
            folders: 0,
            left: limit,
            limit,
            complained,
            is_cut: received.is_cut,
            cancel: cancel.clone(),
            out,
        }
    }

    /// Unpacks it; blocks.
    pub(super) fn run(mut self, archive: impl Read) -> FetchedArtifacts {
        let archive = Cancellable::new(archive, &self.cancel);
        if let Err(e) = self.all(archive)
            && (!self.is_cut || self.cancel.is_cancelled())
        {
            // What an unfinished archive held is there.
            self.out.lacks(&format!("the archive ended early: {e}"));
        }
        self.finish()
    }

    fn all(&mut self, archive: impl Read) -> io::Result<()> {
        let mut announced = Announced::default();
        // Raw: the library would read a name of any length into memory, and write a terabyte for a sparse file.
        for entry in tar::Archive::new(archive).entries()?.raw(true) {
            let mut entry = entry?;
            if announced.take(&mut entry)? {
                continue;
            }
            let told = std::mem::take(&mut announced);
            let size = entry.header().entry_size()?;
            if told.size.is_some_and(|told| told != size) {
                self.out.lacks("the archive holds a file that is too large for its own headers");
                return Ok(());
            }
            let raw = told.name.unwrap_or_else(|| entry.header().path_bytes().into_owned());
            if let Some(why) = told.unusable {
                let shown: String = raw.escape_ascii().to_string().chars().take(80).collect();
                self.out.lacks(&format!("`{shown}`: {why}"));
                continue;
            }
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
            let link = told.link.or_else(|| entry.header().link_name_bytes().map(std::borrow::Cow::into_owned));
            match self.one(&mut entry, path.clone(), link) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(e),
                Err(e) => {
                    if self.cancel.is_cancelled() {
                        return Err(e);
                    }
                    self.out.lacks(&format!("`{}`: {e}", path.display()));
                    // A full disk takes nothing more, and neither do we at our own limits.
                    if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes one entry, if it is a file.
    fn one(&mut self, entry: &mut impl TarEntry, path: PathBuf, link: Option<Vec<u8>>) -> io::Result<()> {
        use tar::EntryType;
        let full = self.to.join(&path);
        let size = entry.size()?;
        let made = match entry.kind() {
            EntryType::Directory => return Ok(()),
            EntryType::Regular | EntryType::Continuous => self.make(&full, &path, entry, size)?,
            EntryType::Link => {
                let first = link.and_then(|link| safe(&link)).and_then(|link| self.written.get(&link).cloned());
                let lacking = || io::Error::other("it is a hard link to a file that did not come");
                let mut first = fs::File::open(first.ok_or_else(lacking)?)?;
                let size = first.metadata()?.len();
                self.make(&full, &path, &mut first, size)?
            }
            EntryType::GNUSparse => return Err(io::Error::other("it was packed as a sparse file")),
            _ => return Err(io::Error::other("it is not a regular file")),
        };
        if made {
            self.out.count += 1;
            self.written.insert(path, full);
        }
        Ok(())
    }

    /// Writes a file that does not exist yet; `false` = it does, and stays as it is. No link can be followed, because none is ever
    /// made.
    fn make(&mut self, full: &Path, path: &Path, content: &mut impl Read, size: u64) -> io::Result<bool> {
        self.make_folders(path)?;
        let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(full) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(e),
        };
        let copied = io::copy(&mut content.take(self.left.saturating_add(1)), &mut file).and_then(|written| {
            if written > self.left {
                self.left = 0;
                let limit = show_size(self.limit);
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("there is more than {limit}")));
            }
            if written < size {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected end of the file"));
            }
            self.left -= written;
            Ok(true)
        });
        if copied.is_err() {
            // Half a file must not look like a whole one.
            drop(file);
            fs::remove_file(full)?;
        }
        copied
    }

    fn make_folders(&mut self, path: &Path) -> io::Result<()> {
        let folders = path.parent().unwrap_or(Path::new(""));
        if folders.components().count() > DEPTH_MAX {
            return Err(io::Error::other(format!("it is in more than {DEPTH_MAX} folders")));
        }
        let full = self.to.join(folders);
        if full.is_dir() {
            return Ok(());
        }
        // Once for each suite, and not counted: it is ours.
        vmdeck_files::make_folders(&self.to)?;
        let mut at = self.to.clone();
        for part in folders.components() {
            at.push(part);
            match fs::DirBuilder::new().mode(0o700).create(&at) {
                Ok(()) => self.folders += 1,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            if self.folders > FOLDERS_MAX {
                let why = format!("there are more than {FOLDERS_MAX} folders");
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
            }
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

/// Unpacks everything of an archive into a folder; for the fuzzer.
pub(crate) fn into_folder(archive: &[u8], to: &Path, limit: u64) {
    Unpacking::new(to, &["**".to_owned()], limit, &Received::default(), &CancellationToken::new()).run(archive);
}

/// What is needed of an entry.
trait TarEntry: Read {
    fn kind(&self) -> tar::EntryType;
    fn size(&self) -> io::Result<u64>;
}

impl<R: Read> TarEntry for tar::Entry<'_, R> {
    fn kind(&self) -> tar::EntryType {
        self.header().entry_type()
    }

    fn size(&self) -> io::Result<u64> {
        self.header().entry_size()
    }
}

impl Announced {
    /// Takes what an entry says about the next one; `false` = it is a file itself.
    fn take(&mut self, entry: &mut impl TarEntry) -> io::Result<bool> {
        match entry.kind() {
            tar::EntryType::GNULongName => self.name = self.text(entry)?,
            tar::EntryType::GNULongLink => self.link = self.text(entry)?,
            tar::EntryType::XHeader => {
                let mut bytes = Vec::new();
                entry.take(ATTRIBUTES_MAX + 1).read_to_end(&mut bytes)?;
                if bytes.len() as u64 > ATTRIBUTES_MAX {
                    self.unusable = Some("its attributes are too long");
                    return Ok(true);
                }
                for pair in tar::PaxExtensions::new(&bytes).flatten() {
                    match pair.key_bytes() {
                        b"path" => self.name = Some(pair.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(pair.value_bytes().to_vec()),
                        b"size" => self.size = pair.value().ok().and_then(|size| size.parse().ok()),
                        key if key.starts_with(b"GNU.sparse.") => {
                            self.unusable = Some("it was packed as a sparse file");
                        }
                        _ => {}
                    }
                }
            }
            tar::EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn text(&mut self, entry: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        entry.take(NAME_MAX).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == NAME_MAX {
            self.unusable = Some("its name is too long");
        }
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(Some(bytes))
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

    fn unpack(bytes: impl Read, to: &Path, globs: &[String]) -> FetchedArtifacts {
        Unpacking::new(to, globs, 1 << 30, &Received::default(), &CancellationToken::new()).run(bytes)
    }

    fn all_files() -> Vec<String> {
        vec!["**".to_owned()]
    }

    /// Returns a header as hostile as a test wants it, with its checksum.
    fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        header
    }

    #[test]
    fn depth_and_folders_are_bounded_and_what_fits_still_comes() {
        let home = tempfile::tempdir().expect("tempdir");
        let mut tar = tar::Builder::new(Vec::new());
        let mut small = tar::Header::new_gnu();
        small.set_size(1);
        small.set_mode(0o644);
        tar.append_data(&mut small.clone(), "d/".repeat(DEPTH_MAX + 1) + "deep", &b"x"[..]).expect("entry");
        tar.append_data(&mut small.clone(), "n".repeat(5000), &b"x"[..]).expect("entry");
        tar.append_data(&mut small.clone(), format!("{}/f", "n".repeat(300)), &b"x"[..]).expect("entry");
        tar.append_data(&mut small.clone(), "after", &b"x"[..]).expect("entry");
        for folder in 0..=FOLDERS_MAX {
            tar.append_data(&mut small.clone(), format!("w{folder}/f"), &b"x"[..]).expect("entry");
        }
        let fetched = unpack(&tar.into_inner().expect("tar")[..], home.path(), &all_files());
        let said = fetched.missing().expect("reasons");
        assert!(said.contains("more than 100 folders") && said.contains("more than 10000"), "{said}");
        assert!(said.matches("too long").count() == 2, "{said}");
        assert!(home.path().join("after").exists());
        let made = fs::read_dir(home.path()).expect("dir").count();
        assert!(made <= FILES_MAX + 3, "{made}");
    }

    #[test]
    fn more_bytes_than_allowed_are_never_written() {
        let home = tempfile::tempdir().expect("tempdir");
        let mut tar = tar::Builder::new(Vec::new());
        let body = vec![b'x'; 600];
        for name in ["a", "b"] {
            tar.append(&header(name, tar::EntryType::Regular, 600), &body[..]).expect("entry");
        }
        for name in ["c", "d", "e"] {
            let mut link = header(name, tar::EntryType::Link, 0);
            link.as_mut_bytes()[157] = b'a';
            link.set_cksum();
            tar.append(&link, &b""[..]).expect("entry");
        }
        let bytes = tar.into_inner().expect("tar");
        let unpacking =
            Unpacking::new(home.path(), &all_files(), 1000, &Received::default(), &CancellationToken::new());
        let fetched = unpacking.run(&bytes[..]);
        assert_eq!(fetched.count, 1);
        assert!(fetched.missing().expect("reasons").contains("there is more than"));
        assert!(!home.path().join("b").exists(), "half a file is none");
        // Copies of what came count as well.
        let more = tempfile::tempdir().expect("tempdir");
        let unpacking =
            Unpacking::new(more.path(), &all_files(), 2000, &Received::default(), &CancellationToken::new());
        assert_eq!(unpacking.run(&bytes[..]).count, 3, "a, b, and one copy of a");
    }

    /// Gives a prefix, and then the same byte for ever.
    struct Endless(Vec<u8>, usize, CancellationToken);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.1 < self.0.len() {
                let n = buffer.len().min(self.0.len() - self.1);
                buffer[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
                self.1 += n;
                return Ok(n);
            }
            // Somebody cancels while it comes.
            self.1 += buffer.len();
            if self.1 > 64 << 20 {
                self.2.cancel();
            }
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }

    #[test]
    fn an_endless_archive_ends_by_a_limit_or_when_it_is_cancelled() {
        use tar::EntryType as T;
        let huge = 1 << 40;
        for (kind, reason) in [
            (T::Regular, "there is more than 1MiB"),
            (T::GNUSparse, "it was cancelled"),
            (T::GNULongName, "it was cancelled"),
            (T::XHeader, "it was cancelled"),
            (T::XGlobalHeader, "it was cancelled"),
            (T::Fifo, "it was cancelled"),
        ] {
            let home = tempfile::tempdir().expect("tempdir");
            let cancel = CancellationToken::new();
            let archive = Endless(header("name", kind, huge).as_bytes().to_vec(), 0, cancel.clone());
            let fetched =
                Unpacking::new(home.path(), &all_files(), 1 << 20, &Received::default(), &cancel).run(archive);
            let said = fetched.missing().expect("reasons");
            assert!(said.contains(reason), "{kind:?}: {said}");
            assert!(fs::read_dir(home.path()).expect("dir").next().is_none(), "{kind:?}");
        }
    }

    #[test]
    fn sparse_files_and_sizes_that_headers_cannot_hold_are_named() {
        let home = tempfile::tempdir().expect("tempdir");
        let mut tar = tar::Builder::new(Vec::new());
        let attributes = b"22 GNU.sparse.major=1\n";
        tar.append(&header("x", tar::EntryType::XHeader, attributes.len() as u64), &attributes[..]).expect("entry");
        tar.append(&header("sparse", tar::EntryType::Regular, 1), &b"x"[..]).expect("entry");
        tar.append(&header("good", tar::EntryType::Regular, 1), &b"x"[..]).expect("entry");
        let attributes = b"20 size=99999999999\n";
        tar.append(&header("x", tar::EntryType::XHeader, attributes.len() as u64), &attributes[..]).expect("entry");
        tar.append(&header("large", tar::EntryType::Regular, 1), &b"x"[..]).expect("entry");
        let fetched = unpack(&tar.into_inner().expect("tar")[..], home.path(), &all_files());
        let said = fetched.missing().expect("reasons");
        assert!(said.contains("`sparse`: it was packed as a sparse file") && said.contains("too large"), "{said}");
        assert_eq!(fetched.count, 1);
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
        let fetched = unpack(&bytes[..], &to, &globs);
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
