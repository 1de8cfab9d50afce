//! The fields below a result: what of them says why and where. They are read by line, as no tool writes the YAML that it says.

use crate::{
    place::{CodePlace, leading_number},
    sheet::Entry,
    words,
};
use vmdeck_model::subtest::SubtestStatus;

/// Fields of one result.
#[derive(Default)]
pub(super) struct Yaml {
    message: String,
    file: String,
    line: Option<u32>,
    took_ms: Option<u64>,
    /// Whether the next line is the text of the message.
    is_message_next: bool,
}

impl Yaml {
    /// Takes a line; returns false at the end of the fields.
    pub(super) fn take(&mut self, text: &str) -> bool {
        let text = text.trim();
        if text == "..." {
            return false;
        }
        if std::mem::take(&mut self.is_message_next) && !text.is_empty() {
            self.message = words::message(text);
            return true;
        }
        let Some((key, value)) = text.split_once(':') else { return true };
        let value = unquote(value.trim());
        match key.trim() {
            "message" | "error" if self.message.is_empty() => match value {
                "|" | "|-" | ">" | ">-" => self.is_message_next = true,
                _ => self.message = words::message(value),
            },
            "file" if self.file.is_empty() => value.clone_into(&mut self.file),
            "line" if self.line.is_none() => self.line = leading_number(value),
            "at" | "location" if self.file.is_empty() => {
                if let Some(place) = CodePlace::find(value, None) {
                    (self.file, self.line) = (place.file, place.line);
                }
            }
            "duration_ms" => self.took_ms = value.parse::<f64>().ok().and_then(|ms| words::millis(ms / 1000.0)),
            _ => {}
        }
        true
    }

    /// Puts what was read into a test.
    pub(super) fn fill(self, entry: &mut Entry) {
        entry.took_ms = entry.took_ms.or(self.took_ms);
        if entry.status == Some(SubtestStatus::Passed) {
            return;
        }
        if entry.message.is_empty() {
            entry.message = self.message;
        }
        if entry.place.is_none() {
            entry.place = CodePlace::new(&self.file, self.line);
        }
    }
}

fn unquote(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(text)
}
