//! Follows a file that another process writes: wakes when it has grown, reads what is new.
//!
//! The writer is never held up, which is why a guest's console goes to a file and not to a pipe that could run full.

use notify::{RecursiveMode, Watcher};
use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

/// How many bytes are read at a time.
const CHUNK: usize = 64 * 1024;
/// How many bytes are given back to the disk at a time, at least.
const STEP: u64 = 4 << 20;
/// How long until the file is checked again even without a notice from the system: a watch can be lost.
const RECHECK: Duration = Duration::from_secs(1);

/// A file that grows; it need not exist yet.
pub struct Tail {
    path: PathBuf,
    file: Option<std::fs::File>,
    position: u64,
    /// Up to where the middle of the file was given back to the disk.
    given_back: u64,
    grown: Arc<Notify>,
    _watcher: Option<notify::RecommendedWatcher>,
    buffer: Vec<u8>,
}

impl Tail {
    /// Follows `path` from its beginning; its folder must exist.
    pub fn follow(path: &Path) -> io::Result<Self> {
        let grown = Arc::new(Notify::new());
        let wake = Arc::clone(&grown);
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::metadata(folder)?;
        let watcher = notify::recommended_watcher(move |_| wake.notify_one())
            .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher))
            // Out of watches: RECHECK alone still finds everything, only later.
            .ok();
        Ok(Self {
            path: path.to_owned(),
            file: None,
            position: 0,
            given_back: 0,
            grown,
            _watcher: watcher,
            buffer: vec![0; CHUNK],
        })
    }

    /// Follows `path` from its present end.
    pub fn follow_from_now(path: &Path) -> io::Result<Self> {
        let mut tail = Self::follow(path)?;
        tail.position = std::fs::metadata(path).map_or(0, |about| about.len());
        tail.given_back = tail.position;
        Ok(tail)
    }

    /// Returns how many bytes were read, or passed over.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Waits for new bytes and returns them; cancel-safe.
    pub async fn next(&mut self) -> io::Result<&[u8]> {
        loop {
            let n = self.read_new()?;
            if n > 0 {
                return Ok(&self.buffer[..n]);
            }
            let _ = super::clock::within(RECHECK, self.grown.notified()).await;
        }
    }

    /// Returns what is new now, without waiting; empty = nothing.
    pub fn now(&mut self) -> io::Result<&[u8]> {
        let n = self.read_new()?;
        Ok(&self.buffer[..n])
    }

    /// Returns how many bytes were written and not read yet.
    pub fn behind(&self) -> u64 {
        let about = self.file.as_ref().map_or_else(|| std::fs::metadata(&self.path), std::fs::File::metadata);
        about.map_or(0, |about| about.len()).saturating_sub(self.position)
    }

    /// Gives back to the disk what lies between the first and the last `limit / 2` bytes of what was read, where the file system can
    /// do that: a hole stays, and every offset means what it meant. Returns whether this was the first time.
    ///
    /// The writer goes on meanwhile, and nothing that was not read can be lost.
    pub fn give_back(&mut self, limit: u64) -> bool {
        let from = self.given_back.max(limit / 2);
        let to = self.position.saturating_sub(limit / 2);
        if to < from + STEP.min(limit / 4).max(1) {
            return false;
        }
        let is_first = self.given_back == 0;
        // Not tried again for the same bytes, whether it worked or not.
        self.given_back = to;
        punch(&self.path, from, to - from).is_ok() && is_first
    }

    fn read_new(&mut self) -> io::Result<usize> {
        if self.file.is_none() {
            match vmdeck_files::open(&self.path) {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(self.position))?;
                    self.file = Some(file);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(e) => return Err(e),
            }
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        let n = file.read(&mut self.buffer)?;
        self.position += n as u64;
        Ok(n)
    }
}

#[cfg(target_os = "linux")]
fn punch(path: &Path, from: u64, length: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    let file = vmdeck_files::open_for_append(path)?;
    Ok(rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, length)?)
}

#[cfg(not(target_os = "linux"))]
fn punch(_: &Path, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Closes the hole that [`Tail::give_back`] has left in a file whose writer has ended: a line says how much is missing.
pub fn close_gap(path: &Path, limit: u64) -> io::Result<()> {
    let mut file = vmdeck_files::open(path)?;
    let (size, half) = (file.metadata()?.len(), limit / 2);
    if size <= limit + STEP {
        return Ok(());
    }
    let mut whole = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    io::copy(&mut (&mut file).take(half), &mut whole)?;
    let missing = vmdeck_model::quantity::show_size(size - 2 * half);
    writeln!(whole, "\n[vmdeck: {missing} are left out here; see `host.log_size`]")?;
    file.seek(SeekFrom::Start(size - half))?;
    io::copy(&mut file, &mut whole)?;
    whole.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Reports when one of these files is written or replaced.
pub struct FileWatch {
    _watcher: Option<notify::RecommendedWatcher>,
}

impl FileWatch {
    /// Calls `told` from another thread, perhaps several times for one change. Where the system has no watches left,
    /// nothing is called.
    pub fn new(files: &[PathBuf], told: impl Fn() + Send + 'static) -> Self {
        let wanted: Vec<PathBuf> = files.iter().filter_map(|f| std::fs::canonicalize(f).ok()).collect();
        let names = wanted.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            let is_read = |e: &notify::Event| matches!(e.kind, notify::EventKind::Access(_));
            if event.is_ok_and(|e| !is_read(&e) && e.paths.iter().any(|p| names.contains(p))) {
                told();
            }
        };
        let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
            // Editors replace files: the folder sees that, a watch on the file would not.
            let folders: std::collections::BTreeSet<&Path> = wanted.iter().filter_map(|f| f.parent()).collect();
            folders.into_iter().try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive))?;
            Ok(watcher)
        });
        Self { _watcher: watcher.ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_middle_of_a_file_that_grows_for_ever_goes_and_what_is_unread_stays() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("console.log");
        let mut writer = std::fs::File::options().create(true).append(true).open(&path).expect("create");
        let mut tail = Tail::follow(&path).expect("follow");
        let (limit, piece) = (1 << 20, vec![b'x'; 64 * 1024]);
        writer.write_all(b"first line\n").expect("write");
        let mut told = 0;
        for _ in 0..320 {
            writer.write_all(&piece).expect("write");
            while !tail.now().expect("read").is_empty() {
                told += usize::from(tail.give_back(limit));
            }
        }
        writer.write_all(b"\nlast line").expect("write");
        let meta = std::fs::metadata(&path).expect("meta");
        assert!(meta.len() > 20 << 20);
        if told == 0 {
            // This file system cannot do it.
            return;
        }
        assert!(meta.blocks() * 512 < 4 << 20, "{} bytes on disk", meta.blocks() * 512);
        assert_eq!((told, tail.now().expect("read")), (1, &b"\nlast line"[..]));
        close_gap(&path, limit).expect("closed");
        let text = std::fs::read(&path).expect("read");
        assert!(text.len() < 2 << 20 && text.starts_with(b"first line\nxxx") && text.ends_with(b"xxx\nlast line"));
        assert!(memchr::memmem::find(&text, b"[vmdeck: 19").is_some() && !text.contains(&0));
    }

    #[tokio::test]
    async fn growth_is_seen_from_before_the_file_exists() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("console.log");
        let mut tail = Tail::follow(&path).expect("follow");
        let writer = std::thread::spawn(move || {
            let mut file = std::fs::File::create(&path).expect("create");
            for part in ["one ", "two ", "three"] {
                file.write_all(part.as_bytes()).expect("write");
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 13 {
            seen.extend_from_slice(tail.next().await.expect("read"));
        }
        writer.join().expect("writer");
        assert_eq!(seen, b"one two three");
        assert!(tail.now().expect("read").is_empty());
    }
}
