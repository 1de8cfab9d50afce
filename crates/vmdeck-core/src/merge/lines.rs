//! The events of a record, line by line and in bounded memory: each as JSON, so that what this version does not know is not lost.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};
use vmdeck_model::{
    error::{Fault, Result},
    event::{self, Event},
    text::Clean,
};

/// The fields whose text may have several lines.
const HAVE_LINES: [&str; 7] = ["message", "stdout_tail", "stderr_tail", "text", "hint", "error", "why"];

/// The lines of `events.jsonl`.
pub(super) struct EventReader {
    file: PathBuf,
    reader: BufReader<File>,
    number: usize,
    buffer: Vec<u8>,
}

/// One event.
pub(super) struct EventLine {
    /// The event as it was written, with its fields in their order.
    pub(super) fields: Map<String, Value>,
    number: usize,
}

impl EventReader {
    /// Opens the events of the record in this folder.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let file = folder.join("events.jsonl");
        let cannot = |e| {
            Fault::user(format!("cannot read the record `{}`", folder.display()))
                .because(e)
                .hint("give the folders of records: each has an `events.jsonl`")
        };
        let reader = BufReader::new(vmdeck_files::open(&file).map_err(cannot)?);
        Ok(Self { file, reader, number: 0, buffer: Vec::new() })
    }

    /// Returns the next event and adds its line to a digest; `None` = the record ends here, perhaps in the middle of a line.
    pub(super) fn next(&mut self, sum: &mut Sha256) -> Result<Option<EventLine>> {
        self.buffer.clear();
        self.number += 1;
        let limit = event::LINE_MAX as u64;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|e| self.wrong(&e.to_string()))?;
        sum.update(&self.buffer);
        if read == 0 {
            return Ok(None);
        }
        let is_whole = self.buffer.last() == Some(&b'\n') || read as u64 == limit;
        let mut fields = match serde_json::from_slice::<Map<String, Value>>(&self.buffer) {
            Ok(fields) => fields,
            // Whoever wrote it died in the middle of this line.
            Err(_) if !is_whole => return Ok(None),
            Err(e) => return Err(self.wrong(&format!("it is no event: {e}"))),
        };
        // Guests' text was clean when it was written; whoever gives the record may have changed that.
        for (name, value) in &mut fields {
            clean(value, HAVE_LINES.contains(&name.as_str()));
        }
        Ok(Some(EventLine { fields, number: self.number }))
    }

    /// Returns what is wrong with the current line.
    pub(super) fn wrong(&self, why: &str) -> Fault {
        Fault::user(format!("cannot merge `{}`", self.file.display())).because(format!("line {}: {why}", self.number))
    }
}

impl EventLine {
    /// Returns whether it is an event of this kind.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.word("kind") == Some(kind)
    }

    /// Returns a field that is text.
    pub(super) fn word(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    /// Returns the milliseconds of its run.
    pub(super) fn elapsed_ms(&self) -> u64 {
        self.fields.get("elapsed_ms").and_then(Value::as_u64).unwrap_or(0)
    }

    /// Returns the event; one whose kind is known and that cannot be understood is an error, for it may hold a verdict.
    pub(super) fn event(&self, of: &EventReader) -> Result<Event> {
        serde_json::from_value(Value::Object(self.fields.clone())).map_err(|e| {
            Fault::user(format!("cannot merge `{}`", of.file.display()))
                .because(format!("line {}: {e}", self.number))
                .hint("a record of a newer vmdeck is merged by that one")
        })
    }
}

/// Takes out of every text what a terminal would obey, and makes it one line unless it may have several.
fn clean(value: &mut Value, has_lines: bool) {
    match value {
        Value::String(text) if text.chars().any(|c| c.is_control() && c != '\t' && !(has_lines && c == '\n')) => {
            let lines: Vec<String> = text.split('\n').map(|line| Clean::from_text(line).into_string()).collect();
            *text = lines.join(if has_lines { "\n" } else { " " });
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, has_lines)),
        Value::Object(fields) => {
            for (name, value) in fields {
                clean(value, HAVE_LINES.contains(&name.as_str()));
            }
        }
        _ => {}
    }
}
