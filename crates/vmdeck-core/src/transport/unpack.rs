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
    /// How many bytes they have.
    pub bytes: u64,
    /// What did not come, each with its reason.
    reasons: Vec<String>,
    /// How many more reasons there were.
    more: usize,
    /// How many of the reasons are only that nothing was there.
    unmatched: usize,
    /// Whether one of them is that there is more than may come.
    pub is_over: bool,
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

    /// Returns the same where there was something that did not come, besides globs that have named nothing.
    pub fn left_behind(&self) -> Option<String> {
        self.missing().filter(|_| self.reasons.len() + self.more > self.unmatched)
    }

    /// Notes what did not come, or why.
    pub fn lacks(&mut self, reason: &str) {
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
                    // A full disk takes nothing more; a smaller file behind one that is too large may have room.
                    self.out.is_over |= e.kind() == io::ErrorKind::QuotaExceeded && self.folders <= FOLDERS_MAX;
                    if e.kind() == io::ErrorKind::StorageFull || self.folders >= FOLDERS_MAX {
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
        if size > self.left {
            let limit = show_size(self.limit);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("there is more than {limit}")));
        }
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
            self.out.bytes += written;
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
                if self.complained && self.out.count == 0 {
                    self.out.lacks(&format!("nothing came for `{glob}`"));
                } else {
                    self.out.lacks(&format!("no file matches `{glob}`"));
                    self.out.unmatched += 1;
                }
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
mod tests;
