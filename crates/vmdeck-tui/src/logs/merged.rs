//! The lines of all guests in the order in which they came, the last of them only: the whole logs are in the record.
//!
//! They come from the record's `output` events, already clean.

use std::collections::VecDeque;
use vmdeck_model::{event::Stream, ids::GuestId};

/// How many bytes of text are kept.
const BYTES_MAX: usize = 8 << 20;
/// How many bytes a line costs besides its text.
const OVERHEAD: usize = 64;

/// A line of any guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedLine {
    /// When the line came, in milliseconds of the run.
    pub ms: u64,
    /// The guest that wrote the line.
    pub guest: GuestId,
    /// Where the line came from: `console`, or the case.
    pub from: String,
    /// The stream of the line.
    pub stream: Stream,
    /// The text of the line.
    pub text: String,
}

/// The merged log; see the module.
#[derive(Debug, Default)]
pub struct Merged {
    lines: VecDeque<MergedLine>,
    bytes: usize,
    /// How many lines were dropped at the front.
    dropped: u64,
}

impl Merged {
    /// Adds a line.
    pub fn push(&mut self, line: MergedLine) {
        self.bytes += line.text.len() + OVERHEAD;
        self.lines.push_back(line);
        while self.bytes > BYTES_MAX {
            let Some(old) = self.lines.pop_front() else { break };
            self.bytes -= old.text.len() + OVERHEAD;
            self.dropped += 1;
        }
    }

    /// Returns the number of the first line that is still there.
    pub fn first(&self) -> u64 {
        self.dropped
    }

    /// Returns one past the number of the last line.
    pub fn end(&self) -> u64 {
        self.dropped + self.lines.len() as u64
    }

    /// Returns a line by its number, which stays the same while others are dropped.
    pub fn get(&self, number: u64) -> Option<&MergedLine> {
        self.lines.get(usize::try_from(number.checked_sub(self.dropped)?).ok()?)
    }

    /// Returns every line with its number.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &MergedLine)> {
        self.lines.iter().enumerate().map(|(i, l)| (self.dropped + i as u64, l))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_numbers_stay() {
        let mut all = Merged::default();
        let guest = GuestId::new("deb").expect("name");
        for ms in 0..200_000 {
            let text = format!("line {ms} {}", "x".repeat(50));
            all.push(MergedLine { ms, guest: guest.clone(), from: "console".into(), stream: Stream::Console, text });
        }
        assert!(all.bytes <= BYTES_MAX && all.first() > 0 && all.end() == 200_000);
        assert_eq!(all.get(199_999).expect("last").ms, 199_999);
        assert_eq!(all.get(0), None);
        assert_eq!(all.iter().next().expect("first").0, all.first());
    }
}
