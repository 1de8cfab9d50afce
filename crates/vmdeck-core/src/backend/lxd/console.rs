//! The console of an instance, copied to the record while it goes on.
//!
//! Facts: the daemon keeps the last 128 KiB of a container's console, empties that at each start, and (5.0.2) whenever it is read. A stream
//! of it would show only what comes after it was opened, and would take the console away from a person. A container's console has no
//! kernel; that of a virtual machine is not kept.

use super::client::LxdClient;
use crate::host::{clock, files};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::task::AbortHandle;

/// The pauses between two looks: while something is written, and after a while without.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// How many bytes of the beginning of a text are looked for in the one before it.
const HEAD: usize = 64;
/// How many places are tried at which they are.
const TRIES: usize = 256;

/// Follows the console of an instance until it is aborted.
pub(super) fn follow(client: LxdClient, instance: String, log: PathBuf) -> AbortHandle {
    let work = async move {
        // Without a log the work goes on all the same: it is a record, and no verdict.
        let Ok(file) = files::open_private(&log) else { return };
        let mut written = ConsoleCopy::new(file);
        let mut pause = PAUSES.0;
        loop {
            // An instance that has written nothing has no such text, which is an error of its own.
            let kept = client.text(&instance, &["console"]).await.unwrap_or_default();
            let is_new = written.add(&kept);
            pause = if is_new { PAUSES.0 } else { (pause + pause / 4).min(PAUSES.1) };
            clock::sleep(pause).await;
        }
    };
    tokio::spawn(work).abort_handle()
}

/// What was copied.
struct ConsoleCopy {
    file: File,
    /// What the daemon had the last time that it had anything.
    before: Vec<u8>,
    /// Whether the daemon is known to forget what was read: then all that it has is new.
    forgets: bool,
}

impl ConsoleCopy {
    fn new(file: File) -> Self {
        Self { file, before: Vec::new(), forgets: false }
    }

    /// Adds what of the kept text is new; returns whether anything is.
    fn add(&mut self, kept: &[u8]) -> bool {
        if kept.is_empty() {
            self.forgets |= !self.before.is_empty();
            return false;
        }
        let new = if self.forgets { kept } else { &kept[seen(&self.before, kept)..] };
        let _ = self.file.write_all(new);
        let is_new = !new.is_empty();
        self.before.clear();
        self.before.extend_from_slice(kept);
        is_new
    }
}

/// Returns how many bytes at the beginning of `now` are the end of `before`: all of it, unless its first part was pushed out.
fn seen(before: &[u8], now: &[u8]) -> usize {
    if now.starts_with(before) {
        return before.len();
    }
    let head = &now[..now.len().min(HEAD)];
    // A guest that writes the same again and again must not make this slow.
    let long = memchr::memmem::find_iter(before, head).take(TRIES);
    let short = before.len().saturating_sub(HEAD)..before.len();
    long.chain(short).map(|at| &before[at..]).find(|rest| now.starts_with(rest)).map_or(0, <[u8]>::len)
}

/// Returns the place of the log in the record of a guest.
pub(super) fn log(record: &Path) -> PathBuf {
    record.join("console.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_is_not_copied_again_whether_the_daemon_forgets_it_or_not() {
        let folder = tempfile::tempdir().expect("folder");
        for forgets in [true, false] {
            let log = folder.path().join(forgets.to_string());
            let mut copy = ConsoleCopy::new(files::open_private(&log).expect("log"));
            let mut kept = String::new();
            for piece in ["boot\n", "", "boot\n", "login: ", "root\n", ""] {
                kept.push_str(piece);
                assert_eq!(copy.add(kept.as_bytes()), !piece.is_empty(), "{forgets} {piece:?}");
                if forgets {
                    kept.clear();
                }
            }
            // Its first part was pushed out.
            if !forgets {
                kept.drain(..7);
                assert!(!copy.add(kept.as_bytes()));
            }
            // A start has emptied it.
            copy.add(b"boot again\n");
            let text = vmdeck_files::read_text(&log, vmdeck_files::LARGE).expect("text");
            assert_eq!(text, "boot\nboot\nlogin: root\nboot again\n");
        }
    }
}
