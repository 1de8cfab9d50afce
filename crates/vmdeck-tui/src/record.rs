//! Follows the record of a run while it is written.
//!
//! A cockpit sees its own run, and that of another process, the same way: through the record. So what it shows is what the
//! record says, and a slow screen never holds the engine up.

use super::host::{FileTail, Host};
use super::{
    msg::Msg,
    replay::{LINE_MAX, OUTPUT},
};
use std::{io, path::Path};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmdeck_model::event::Event;

/// How many bytes at the end are searched for output lines that were written before the cockpit came.
const BACKLOG: u64 = 4 << 20;
/// How many output lines of one chunk are shown: more cannot be seen, and the guests' own logs have them.
const LINES_MAX: usize = 2000;

/// Follows `events.jsonl` of a record until `stop`; the folder must exist. `over` is cancelled after the last event.
pub(super) fn follow(
    host: &dyn Host,
    dir: &Path,
    messages: mpsc::Sender<Msg>,
    stop: CancellationToken,
    over: CancellationToken,
) -> io::Result<()> {
    let path = dir.join("events.jsonl");
    let skip_until = std::fs::metadata(&path).map_or(0, |m| m.len().saturating_sub(BACKLOG));
    let tail = host.follow(&path)?;
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = read(tail, skip_until, messages) => over.cancel(),
        }
    });
    Ok(())
}

async fn read(mut tail: Box<dyn FileTail>, skip_until: u64, messages: mpsc::Sender<Msg>) {
    let mut lines = EventLines { skip_until, ..EventLines::default() };
    while let Ok(bytes) = tail.next().await {
        let events = lines.feed(bytes);
        let is_over = events.last().is_some_and(|e| matches!(e.kind, vmdeck_model::event::EventKind::RunEnded { .. }));
        if !events.is_empty() && messages.send(Msg::Events(events)).await.is_err() || is_over {
            return;
        }
    }
}

/// Cuts bytes into events; what is not an event is left out.
#[derive(Default)]
struct EventLines {
    rest: Vec<u8>,
    offset: u64,
    skip_until: u64,
}

impl EventLines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = memchr::memrchr(b'\n', &self.rest) else {
            if self.rest.len() > LINE_MAX {
                // No event is that long: what follows up to the line's end cannot be one either.
                self.offset += self.rest.len() as u64;
                self.rest.clear();
            }
            return Vec::new();
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
        let is_output = |line: &[u8]| memchr::memmem::find(line, OUTPUT).is_some();
        let mut too_many = lines.iter().filter(|l| is_output(l)).count().saturating_sub(LINES_MAX);
        let mut out = Vec::new();
        for line in lines {
            let is_output = is_output(line);
            let old = is_output && self.offset < self.skip_until;
            self.offset += line.len() as u64;
            if is_output && too_many > 0 {
                too_many -= 1;
                continue;
            }
            if !old && let Ok(event) = serde_json::from_slice(line) {
                out.push(event);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_never_left_out_and_old_output_is() {
        let fact = br#"{"seq":1,"at":"2026-11-21T08:00:00Z","elapsed_ms":1,"kind":"warning","text":"x"}"#;
        let output = br#"{"seq":2,"at":"2026-11-21T08:00:00Z","elapsed_ms":1,"kind":"output","guest":"g","stream":"console","line":"l"}"#;
        let text: Vec<u8> = [&fact[..], output, fact, output].join(&b'\n').into_iter().chain(*b"\n").collect();
        let mut all = EventLines::default();
        for piece in text.chunks(7) {
            assert!(all.feed(piece).len() <= 1);
        }
        let last = text.len() as u64 - output.len() as u64 - 1;
        let mut lines = EventLines { skip_until: last, ..EventLines::default() };
        assert_eq!(lines.feed(&text).len(), 3, "both facts and the last output line");
        let flood: Vec<u8> = std::iter::repeat_n([&output[..], b"\n"].concat(), LINES_MAX * 2).flatten().collect();
        assert_eq!(EventLines::default().feed(&flood).len(), LINES_MAX);
        assert!(EventLines::default().feed(b"no event\n{\"torn\":").is_empty());
        let mut endless = EventLines::default();
        for _ in 0..64 {
            assert!(endless.feed(&vec![b'x'; 64 * 1024]).is_empty() && endless.rest.len() <= LINE_MAX + 64 * 1024);
        }
        assert_eq!(endless.feed(&[&b"\n"[..], fact, b"\n"].concat()).len(), 1, "and goes on after it");
    }
}
