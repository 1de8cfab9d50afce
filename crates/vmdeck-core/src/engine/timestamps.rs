//! When each part of a log was written: a small file beside it, so that a viewer can show times and scrub through them.
//!
//! `console.log` has `console.times`: lines of `MILLISECONDS OFFSET`, "at this time of the run the byte at this offset
//! came". Entries are at least [`STEP_MS`] apart, so a flood does not make it grow; losing it loses only the times.

use super::events::EventSender;
use std::{fs, io::Write, path::Path};

/// How far entries are apart, in milliseconds.
const STEP_MS: u64 = 20;

/// Writes the times of one log.
pub(super) struct LogTimestamps {
    file: Option<fs::File>,
    events: EventSender,
    offset: u64,
    last_ms: Option<u64>,
}

impl LogTimestamps {
    /// Returns the writer for the log at `path`, of which so many bytes were written before.
    pub(super) fn beside(path: &Path, offset: u64, events: EventSender) -> Self {
        Self { file: vmdeck_files::create(&path.with_extension("times")).ok(), events, offset, last_ms: None }
    }

    /// Notes that `bytes` more have come.
    pub(super) fn note(&mut self, bytes: usize) {
        let now = self.events.elapsed_ms();
        if self.last_ms.is_none_or(|last| now >= last + STEP_MS) {
            self.last_ms = Some(now);
            let line = format!("{now} {}\n", self.offset);
            if self.file.as_mut().is_some_and(|f| f.write_all(line.as_bytes()).is_err()) {
                self.file = None;
            }
        }
        self.offset += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_makes_few_entries_and_offsets_are_those_of_the_bytes() {
        let home = tempfile::tempdir().expect("tempdir");
        let log = home.path().join("console.log");
        let (events, _inbox) = EventSender::new(std::sync::Arc::default());
        let mut timestamps = LogTimestamps::beside(&log, 0, events);
        (0..1000).for_each(|_| timestamps.note(10));
        tokio::time::advance(std::time::Duration::from_millis(50)).await;
        timestamps.note(5);
        let text = fs::read_to_string(home.path().join("console.times")).expect("times");
        assert_eq!(text, "0 0\n50 10000\n");
    }
}
