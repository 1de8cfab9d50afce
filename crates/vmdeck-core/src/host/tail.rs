//! Follows a file that another process writes: wakes when it has grown, reads what is new.
//!
//! The writer is never held up, which is why a guest's console goes to a file and not to a pipe that could run full.

use notify::{RecursiveMode, Watcher};
use std::{
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

/// How many bytes are read at a time.
const CHUNK: usize = 64 * 1024;
/// How long until the file is checked again even without a notice from the system: a watch can be lost.
const RECHECK: Duration = Duration::from_secs(1);

/// A file that grows; it need not exist yet.
pub struct Tail {
    path: PathBuf,
    file: Option<std::fs::File>,
    position: u64,
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
        Ok(Self { path: path.to_owned(), file: None, position: 0, grown, _watcher: watcher, buffer: vec![0; CHUNK] })
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
    use std::io::Write;

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
