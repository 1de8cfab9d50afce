//! A log file of bounded size: its beginning as it comes, and its end once there is no more.
//!
//! A command may write for ever; what it wrote first and last is what people look for.

use std::{collections::VecDeque, fs::File, io, io::Write};
use vmdeck_model::quantity::show_size;

/// The most bytes of a log's end that are kept in memory.
const END: u64 = 1 << 20;

/// A log file of bounded size; see the module.
pub(super) struct CappedLog {
    file: File,
    /// How many bytes the beginning may still take.
    room: u64,
    end: VecDeque<u8>,
    end_max: usize,
    /// How many bytes are in neither.
    left_out: u64,
}

impl CappedLog {
    /// Returns a log of at most about `limit` bytes.
    pub(super) fn new(file: File, limit: u64) -> Self {
        let end = END.min(limit / 2);
        let end_max = usize::try_from(end).unwrap_or_default();
        Self { file, room: limit - end, end: VecDeque::new(), end_max, left_out: 0 }
    }

    /// Returns whether the next bytes still go to the beginning, where their place is known.
    pub(super) fn has_room(&self) -> bool {
        self.room > 0
    }

    /// Takes what the command wrote; returns whether something of it was left out for the first time.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let fits = usize::try_from(self.room).unwrap_or(bytes.len()).min(bytes.len());
        let was_whole = self.left_out == 0;
        self.file.write_all(&bytes[..fits])?;
        self.room -= fits as u64;
        let rest = &bytes[fits..];
        // Of a piece that is larger than the end only its own end can stay.
        let kept = &rest[rest.len().saturating_sub(self.end_max)..];
        self.left_out += (rest.len() - kept.len()) as u64;
        self.end.extend(kept);
        let excess = self.end.len().saturating_sub(self.end_max);
        self.end.drain(..excess);
        self.left_out += excess as u64;
        Ok(was_whole && self.left_out > 0)
    }

    /// Writes the end, after a line that says what is missing before it.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.left_out > 0 {
            let text = format!("\n[vmdeck: {} are left out here; see `host.log_size`]\n", show_size(self.left_out));
            self.file.write_all(text.as_bytes())?;
        }
        let (one, two) = self.end.as_slices();
        self.file.write_all(one)?;
        self.file.write_all(two)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(limit: u64, pieces: &[&[u8]]) -> (String, usize) {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("log");
        let mut log = CappedLog::new(File::create(&path).expect("log"), limit);
        let full = pieces.iter().filter(|piece| log.write(piece).expect("written")).count();
        log.finish().expect("finished");
        (std::fs::read_to_string(path).expect("text"), full)
    }

    #[test]
    fn what_fits_is_whole_and_what_does_not_keeps_both_ends() {
        assert_eq!(logged(10, &[b"0123", b"456"]), ("0123456".into(), 0), "the end begins where the beginning ends");
        assert_eq!(logged(10, &[b"0123456789"]), ("0123456789".into(), 0));
        let (text, full) = logged(10, &[b"0123456789abc", b"", b"defgh", b"ijklm"]);
        assert_eq!(text, "01234\n[vmdeck: 13B are left out here; see `host.log_size`]\nijklm");
        assert_eq!(full, 1, "told once");
        let (text, _) = logged(2, &[&b"x".repeat(1 << 20)[..], b"yz"]);
        assert!(text.starts_with("x\n[vmdeck: ") && text.ends_with("]\nz"), "{text}");
    }
}
