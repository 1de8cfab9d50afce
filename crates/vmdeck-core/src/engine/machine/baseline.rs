//! What a good boot looks like on the console, and the first line of a bad one that it does not have.
//!
//! Lines are compared without what differs from boot to boot: times, addresses, counters. Only hashes are kept, in one
//! small file for each guest in the state folder; a broken one only loses the comparison.

use crate::host::files;
use std::{collections::BTreeSet, path::Path};

/// How many lines of a boot are compared.
const LINES: usize = 20_000;
/// Characters of a line that are kept for the message.
const SHOWN: usize = 200;

/// The console of one boot.
#[derive(Debug, Default)]
pub(super) struct ConsoleBaseline {
    good: BTreeSet<u32>,
    seen: BTreeSet<u32>,
    lines: usize,
    /// The first line that the last good boot did not have.
    odd: Option<String>,
}

impl ConsoleBaseline {
    /// Returns an empty console, to be compared with the last good boot if there was one.
    pub(super) fn load(path: &Path) -> Self {
        let good = vmdeck_files::read(path, vmdeck_files::SMALL)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { good, ..Self::default() }
    }

    /// Takes a whole line.
    pub(super) fn line(&mut self, line: &str) {
        if self.lines >= LINES {
            return;
        }
        self.lines += 1;
        let print = crc32fast::hash(bare(line).as_bytes());
        if self.odd.is_none() && !line.trim().is_empty() && !self.good.contains(&print) {
            self.odd = Some(line.chars().take(SHOWN).collect());
        }
        self.seen.insert(print);
    }

    /// Returns the first line that the last good boot did not have; `None` also where there was no good boot yet.
    pub(super) fn odd(&self) -> Option<&str> {
        self.odd.as_deref().filter(|_| !self.good.is_empty())
    }

    /// Saves the console of a good boot, with which later ones are compared.
    pub(super) fn save(&self, path: &Path) {
        if let (Some(folder), Ok(bytes)) = (path.parent(), serde_json::to_vec(&self.seen)) {
            // Only the comparison is lost if this fails.
            let _ = files::private_dir(folder).and_then(|()| files::write_atomic(path, &bytes));
        }
    }
}

/// Returns a line without what differs from boot to boot: every word part with a digit in it becomes `#`.
fn bare(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for part in line.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let (word, end) = match part.char_indices().next_back() {
            Some((at, c)) if !c.is_ascii_hexdigit() => part.split_at(at),
            _ => (part, ""),
        };
        out.push_str(if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word });
        // Columns are padded by the width of the numbers in them.
        if end != " " || !out.ends_with(' ') {
            out.push_str(end);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn times_and_addresses_do_not_count() {
        assert_eq!(bare("[    0.512341] pci 0000:00:02.0: BAR 0x1f"), bare("[   11.1] pci 0000:00:03.1: BAR 0xffc0"));
        assert_ne!(bare("mounted /dev/sda1"), bare("cannot mount /dev/sda1"));
    }

    #[test]
    fn the_first_line_that_the_good_boot_did_not_have() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("x/deb.lines");
        let mut good = ConsoleBaseline::load(&path);
        for line in ["[ 0.1] Linux version 6", "[ 1.0] eth0: link up", "login:"] {
            good.line(line);
        }
        assert_eq!(good.odd(), None, "nothing to compare with");
        good.save(&path);
        let mut bad = ConsoleBaseline::load(&path);
        for line in ["[ 0.2] Linux version 6", "[ 1.4] eth0: timeout", "panic"] {
            bad.line(line);
        }
        assert_eq!(bad.odd(), Some("[ 1.4] eth0: timeout"));
        fs::write(&path, "broken").expect("write");
        assert!(ConsoleBaseline::load(&path).good.is_empty());
    }
}
