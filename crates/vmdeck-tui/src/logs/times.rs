//! When the bytes of a log came, from the small file beside it.
//!
//! The engine writes it; a record without one has no times and everything else still works.

use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// The most bytes that are read at a time.
const CHUNK: u64 = 8 << 20;
/// The longest line.
const LINE_MAX: usize = 256;

/// The times of a log: `MILLISECONDS OFFSET` pairs in order.
#[derive(Debug, Default)]
pub struct Times {
    path: PathBuf,
    read: u64,
    rest: String,
    /// (milliseconds of the run, offset of the first byte that came then)
    all: Vec<(u64, u64)>,
}

impl Times {
    /// Returns the times of the log at `path`.
    pub fn beside(path: &Path) -> Self {
        let mut times = Self { path: path.with_extension("times"), ..Self::default() };
        times.refresh();
        times
    }

    /// Reads what has been added.
    pub fn refresh(&mut self) {
        let Ok(mut file) = vmdeck_files::open(&self.path) else { return };
        let mut text = String::new();
        if file.seek(SeekFrom::Start(self.read)).is_err() || file.take(CHUNK).read_to_string(&mut text).is_err() {
            return;
        }
        self.read += text.len() as u64;
        self.rest.push_str(&text);
        let Some(end) = self.rest.rfind('\n') else {
            // Two numbers are never that long.
            if self.rest.len() > LINE_MAX {
                self.rest.clear();
            }
            return;
        };
        let whole: String = self.rest.drain(..=end).collect();
        let pair = |line: &str| {
            let (ms, offset) = line.split_once(' ')?;
            Some((ms.parse().ok()?, offset.parse().ok()?))
        };
        self.all.extend(whole.lines().filter_map(pair));
    }

    /// Returns when the byte at an offset came.
    pub fn at(&self, offset: u64) -> Option<u64> {
        let after = self.all.partition_point(|(_, o)| *o <= offset);
        self.all.get(after.checked_sub(1)?).map(|(ms, _)| *ms)
    }

    /// Returns the first offset that was not there yet at a time; `None` = everything was.
    pub fn offset_after(&mut self, ms: u64) -> Option<u64> {
        if self.all.last().is_none_or(|(last, _)| *last <= ms) {
            self.refresh();
        }
        let after = self.all.partition_point(|(t, _)| *t <= ms);
        self.all.get(after).map(|(_, offset)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_and_a_torn_last_line() {
        let home = tempfile::tempdir().expect("tempdir");
        let log = home.path().join("console.log");
        std::fs::write(home.path().join("console.times"), "10 0\n50 100\n90 2").expect("write");
        let mut times = Times::beside(&log);
        assert_eq!(
            (times.at(0), times.at(99), times.at(100), times.at(5000)),
            (Some(10), Some(10), Some(50), Some(50))
        );
        assert_eq!((times.offset_after(9), times.offset_after(20), times.offset_after(60)), (Some(0), Some(100), None));
        std::fs::write(home.path().join("console.times"), "10 0\n50 100\n90 200\n").expect("write");
        assert_eq!(times.offset_after(60), Some(200));
        assert_eq!(Times::beside(Path::new("/nowhere/x.log")).at(3), None);
    }
}
