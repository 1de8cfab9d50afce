//! One log of a record: indexed while it grows, read window by window, never held in memory.
//!
//! A task follows the file; whoever shows it only looks at the index and reads the lines that are on the screen. The file is
//! read, not mapped: a log that is cut short must not bring the cockpit down.

use super::{
    index::{Index, Piece, split_lines},
    times::Times,
};
use crate::host::{FileTail, Host};
use parking_lot::{Mutex, MutexGuard};
use std::{
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How much is read at a time to find a window, in bytes.
const BLOCK: usize = 64 * 1024;

/// Wakes the loop when a log has grown; not again before the loop has looked.
#[derive(Clone)]
pub struct Waker {
    pending: Arc<AtomicBool>,
    wake: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Waker {
    /// Makes a waker that calls `wake` once for any number of changes; `wake` returns whether the loop will look.
    pub fn new(wake: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { pending: Arc::default(), wake: Arc::new(wake) }
    }

    /// Notes that a log has grown.
    pub fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) && !(self.wake)() {
            // Not heard: the next change tries again.
            self.seen();
        }
    }

    /// Notes that the loop looks now.
    pub fn seen(&self) {
        self.pending.store(false, Ordering::Release);
    }
}

/// A line as it is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawLine {
    /// The number of the line, from 0.
    pub number: u64,
    /// The offset at which the line begins, in bytes.
    pub offset: u64,
    /// The bytes of the line without the newline.
    pub bytes: Vec<u8>,
}

/// One log; see the module.
pub struct LogFile {
    path: PathBuf,
    index: Arc<Mutex<Index>>,
    times: Mutex<Times>,
    /// Ends the task that follows the file when dropped.
    _follower: DropGuard,
}

impl LogFile {
    /// Opens a log that may not be there yet; must be called within a runtime.
    pub fn open(host: &dyn Host, path: &Path, waker: Waker) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let index: Arc<Mutex<Index>> = Arc::default();
        if path.parent().is_some_and(Path::exists) {
            let tail = host.follow(path)?;
            tokio::spawn(follow(tail, Arc::clone(&index), waker, stop.clone()));
        }
        let times = Mutex::new(Times::beside(path));
        Ok(Self { path: path.to_owned(), index, times, _follower: stop.drop_guard() })
    }

    /// Returns the path of the log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the index as it is now.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }

    /// Returns how many lines there are; with `until_ms` only those that were there at that time of the run.
    pub fn lines(&self, until_ms: Option<u64>) -> u64 {
        let Some(until) = until_ms else { return self.index().lines() };
        let Some(offset) = self.times.lock().offset_after(until) else {
            return self.index().lines();
        };
        self.line_at(offset)
    }

    /// Returns the number of the line that has the byte at `offset`.
    fn line_at(&self, offset: u64) -> u64 {
        let mark = self.index().before_offset(offset);
        let mut line = mark.line;
        let mut at = mark.offset;
        self.scan(mark.offset, |piece| {
            at += piece.size as u64;
            let before = at <= offset;
            line += u64::from(before);
            before
        });
        line
    }

    /// Returns the lines `from..from + count`, fewer at the end; each at most 64 KiB long.
    pub fn read(&self, from: u64, count: usize) -> Vec<RawLine> {
        let mark = self.index().before(from);
        let mut out = Vec::with_capacity(count);
        let (mut number, mut offset) = (mark.line, mark.offset);
        self.scan(mark.offset, |piece| {
            if number >= from {
                out.push(RawLine { number, offset, bytes: piece.bytes.to_vec() });
            }
            number += 1;
            offset += piece.size as u64;
            out.len() < count
        });
        out
    }

    /// Goes over the lines from an offset at which one begins, until `each` has enough.
    fn scan(&self, from: u64, mut each: impl FnMut(Piece<'_>) -> bool) {
        let Ok(file) = vmdeck_files::open(&self.path) else { return };
        let (mut start, mut block) = (from, vec![0; BLOCK]);
        let mut rest: Vec<u8> = Vec::new();
        while let Ok(n @ 1..) = file.read_at(&mut block, start) {
            start += n as u64;
            rest.extend_from_slice(&block[..n]);
            let mut used = 0;
            let mut enough = false;
            split_lines(&rest, |piece| {
                if piece.ended {
                    used += piece.size;
                    enough = !each(piece);
                }
                piece.ended && !enough
            });
            if enough {
                return;
            }
            rest.drain(..used);
        }
        if !rest.is_empty() {
            each(Piece { bytes: &rest, size: rest.len(), ended: false });
        }
    }

    /// Returns when a line came, in milliseconds of the run.
    pub fn time_of(&self, line: &RawLine) -> Option<u64> {
        let mut times = self.times.lock();
        times.refresh();
        times.at(line.offset)
    }
}

async fn follow(mut tail: Box<dyn FileTail>, index: Arc<Mutex<Index>>, waker: Waker, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            read = tail.next() => match read {
                Ok(bytes) => {
                    index.lock().feed(bytes);
                    waker.wake();
                }
                Err(_) => return,
            },
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, time::Duration};

    async fn opened(text: &[u8]) -> (tempfile::TempDir, LogFile) {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("console.log");
        std::fs::write(&path, text).expect("write");
        let log = LogFile::open(&crate::host::tests::TestHost, &path, Waker::new(|| true)).expect("open");
        until(&log, text.len() as u64).await;
        (home, log)
    }

    async fn until(log: &LogFile, bytes: u64) {
        let all = async {
            while log.index().bytes() < bytes {
                tokio::task::yield_now().await;
            }
        };
        crate::clock::within(Duration::from_secs(20), all).await.expect("indexed");
    }

    fn texts(lines: &[RawLine]) -> Vec<String> {
        lines.iter().map(|l| format!("{} {}", l.number, String::from_utf8_lossy(&l.bytes))).collect()
    }

    #[tokio::test]
    async fn windows_anywhere_and_while_it_grows() {
        let text: String = (0..5000).map(|i| format!("line {i}\n")).collect();
        let (home, log) = opened(text.as_bytes()).await;
        assert_eq!(log.lines(None), 5000);
        assert_eq!(texts(&log.read(4711, 2)), ["4711 line 4711", "4712 line 4712"]);
        assert_eq!(texts(&log.read(4999, 9)), ["4999 line 4999"]);
        assert!(log.read(5000, 3).is_empty());
        let mut file = std::fs::OpenOptions::new().append(true).open(home.path().join("console.log")).expect("open");
        file.write_all(b"half").expect("write");
        until(&log, text.len() as u64 + 4).await;
        assert_eq!(texts(&log.read(4999, 9)), ["4999 line 4999", "5000 half"]);
        let offset = log.read(4711, 1)[0].offset;
        assert_eq!(log.line_at(offset), 4711);
    }

    #[tokio::test]
    async fn long_lines_are_read_as_they_are_counted() {
        let mut text = vec![b'x'; super::super::index::LINE_MAX * 2 + 10];
        text.extend_from_slice(b"\nshort\n\nlast\n");
        let (_home, log) = opened(&text).await;
        let lines = log.read(0, 10);
        assert_eq!(lines.len() as u64, log.lines(None));
        assert_eq!(texts(&lines[3..]), ["3 short", "4 ", "5 last"]);
        assert_eq!(lines[2].offset, super::super::index::LINE_MAX as u64 * 2);
        assert_eq!(lines[3].offset, super::super::index::LINE_MAX as u64 * 2 + 11);
    }

    #[tokio::test]
    async fn a_log_that_is_cut_short_or_gone_gives_fewer_lines() {
        let (home, log) = opened(b"one\ntwo\nthree\n").await;
        std::fs::write(home.path().join("console.log"), "one\n").expect("cut");
        assert_eq!(texts(&log.read(0, 5)), ["0 one"]);
        std::fs::remove_file(home.path().join("console.log")).expect("gone");
        assert!(log.read(0, 5).is_empty());
    }
}
