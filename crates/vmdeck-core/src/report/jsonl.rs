//! The stream of events, one JSON object per line: the truth of a run.
//!
//! Lines are written whole and at once, so that a record survives the death of its writer at any moment.

use super::ReportSink;
use std::io::{self, Write};
use vmdeck_model::{
    event::{Event, EventKind},
    run_view::RunView,
};

/// The report; see the module.
pub struct Jsonl {
    name: String,
    out: Box<dyn Write + Send>,
    pending: Vec<u8>,
    /// How many bytes of output lines may still be written; `None` = any number.
    room: Option<u64>,
    is_full: bool,
}

/// Output lines are gathered up to this size, in bytes; any other event is written at once, with what was gathered.
const GATHER: usize = 32 * 1024;

impl Jsonl {
    /// Makes a report of this name that writes to `out`.
    pub fn new(name: String, out: Box<dyn Write + Send>) -> Self {
        Self { name, out, pending: Vec::new(), room: None, is_full: false }
    }

    /// Leaves output lines out, with a warning in their place, once this many bytes of them were written. Every other event is
    /// always written.
    #[must_use]
    pub fn limited(self, bytes: u64) -> Self {
        Self { room: Some(bytes), ..self }
    }

    /// Returns what is written instead of an event; `None` = nothing.
    fn instead(&mut self, event: &Event) -> Option<Event> {
        if std::mem::replace(&mut self.is_full, true) {
            return None;
        }
        let kind = EventKind::Warning {
            guest: None,
            text: "further output lines are left out of the events; the logs have them".into(),
            hint: Some("raise `host.events_size`".into()),
        };
        Some(Event { kind, ..event.clone() })
    }
}

impl ReportSink for Jsonl {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn event(&mut self, event: &Event, _: &RunView) -> io::Result<()> {
        let before = self.pending.len();
        let is_output = matches!(event.kind, EventKind::Output { .. });
        if is_output && self.room == Some(0) {
            let Some(instead) = self.instead(event) else { return Ok(()) };
            serde_json::to_writer(&mut self.pending, &instead)?;
        } else {
            serde_json::to_writer(&mut self.pending, event)?;
        }
        self.pending.push(b'\n');
        if let (Some(room), true) = (&mut self.room, is_output) {
            *room = room.saturating_sub((self.pending.len() - before) as u64);
        }
        if !matches!(event.kind, EventKind::Output { .. }) || self.pending.len() >= GATHER {
            self.out.write_all(&self.pending)?;
            self.out.flush()?;
            self.pending.clear();
        }
        Ok(())
    }

    fn idle(&mut self, _: u64, _: &RunView) -> io::Result<()> {
        self.out.write_all(&self.pending)?;
        self.pending.clear();
        self.out.flush()
    }
}

/// A buffer that a test can look into.
#[cfg(test)]
#[derive(Clone, Default)]
pub(super) struct Shared(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

#[cfg(test)]
impl Shared {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("text")
    }
}

#[cfg(test)]
impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
