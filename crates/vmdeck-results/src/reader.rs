//! The seam to every format that is read line by line.

use crate::{line::Line, sheet::Sheet};

/// Reads one format as it comes.
pub(crate) trait LineReader: Send {
    /// Takes the next line.
    fn line(&mut self, line: &Line, sheet: &mut Sheet);

    /// Returns whether what was read so far is whole, so that another format may follow.
    fn is_closed(&self) -> bool {
        false
    }

    /// Returns whether what was read so far is a report for certain, and not text that only looks like the beginning of one.
    fn is_certain(&self) -> bool {
        true
    }

    /// Ends the stream: what is still running did not end.
    fn end(&mut self, sheet: &mut Sheet);
}
