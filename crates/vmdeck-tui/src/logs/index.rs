//! Where the lines of a growing log begin: a mark every so many lines, in bounded memory however long the log is.
//!
//! A line ends at a newline, or after [`LINE_MAX`] bytes: a flood without a newline is many lines and never one endless
//! one. Reading the log itself is `file`'s work.

/// The longest line in bytes; what follows is another line.
pub const LINE_MAX: usize = 64 * 1024;
/// How many marks are kept; when there are more, every second one is dropped.
const MARKS_MAX: usize = 32 * 1024;
/// How many lines are between marks at the beginning.
const STRIDE: u64 = 256;

/// The beginning of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineMark {
    /// The number of the line, from 0.
    pub line: u64,
    /// The offset of the line in bytes.
    pub offset: u64,
}

/// The index of a log; see the module.
#[derive(Clone, Debug)]
pub struct Index {
    stride: u64,
    marks: Vec<LineMark>,
    /// The line that is being written.
    open: LineMark,
    bytes: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self { stride: STRIDE, marks: vec![LineMark::default()], open: LineMark::default(), bytes: 0 }
    }
}

impl Index {
    /// Takes the next bytes of the log.
    pub fn feed(&mut self, chunk: &[u8]) {
        for at in memchr::memchr_iter(b'\n', chunk) {
            let end = self.bytes + at as u64 + 1;
            self.split(end - 1);
            self.begin(end);
        }
        self.bytes += chunk.len() as u64;
        self.split(self.bytes);
    }

    /// Cuts the open line for as long as it is too long at `end`.
    fn split(&mut self, end: u64) {
        while end - self.open.offset > LINE_MAX as u64 {
            self.begin(self.open.offset + LINE_MAX as u64);
        }
    }

    fn begin(&mut self, offset: u64) {
        self.open = LineMark { line: self.open.line + 1, offset };
        if self.open.line.is_multiple_of(self.stride) {
            self.marks.push(self.open);
            if self.marks.len() > MARKS_MAX {
                self.stride *= 2;
                let stride = self.stride;
                self.marks.retain(|m| m.line.is_multiple_of(stride));
            }
        }
    }

    /// Returns the number of lines so far; one that has only begun counts once it has a byte.
    pub fn lines(&self) -> u64 {
        self.open.line + u64::from(self.bytes > self.open.offset)
    }

    /// Returns the number of bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the last mark at or before a line.
    pub fn before(&self, line: u64) -> LineMark {
        let after = self.marks.partition_point(|m| m.line <= line);
        self.marks.get(after.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Returns the last mark at or before an offset.
    pub fn before_offset(&self, offset: u64) -> LineMark {
        let after = self.marks.partition_point(|m| m.offset <= offset);
        self.marks.get(after.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Returns all marks, for work that is split at them.
    pub fn marks(&self) -> &[LineMark] {
        &self.marks
    }
}

/// A line of [`split_lines`].
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The bytes of the line without the newline.
    pub bytes: &'a [u8],
    /// How many bytes the line takes, its newline included.
    pub size: usize,
    /// Whether the line has ended.
    pub ended: bool,
}

/// Splits bytes that begin at the beginning of a line the same way, until `each` has enough.
pub fn split_lines<'a>(bytes: &'a [u8], mut each: impl FnMut(Piece<'a>) -> bool) {
    let mut start = 0;
    while start < bytes.len() {
        let rest = &bytes[start..];
        let newline = memchr::memchr(b'\n', &rest[..rest.len().min(LINE_MAX + 1)]);
        let piece = match newline {
            Some(at) => Piece { bytes: &rest[..at], size: at + 1, ended: true },
            None if rest.len() > LINE_MAX => Piece { bytes: &rest[..LINE_MAX], size: LINE_MAX, ended: true },
            None => Piece { bytes: rest, size: rest.len(), ended: false },
        };
        if !each(piece) {
            return;
        }
        start += piece.size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn starts(bytes: &[u8]) -> Vec<u64> {
        let (mut out, mut at) = (Vec::new(), 0);
        split_lines(bytes, |piece| {
            out.push(at);
            at += piece.size as u64;
            true
        });
        out
    }

    #[test]
    fn an_endless_line_is_many() {
        let mut index = Index::default();
        index.feed(&vec![b'x'; LINE_MAX * 3 + 5]);
        assert_eq!(index.lines(), 4);
        index.feed(b"\nnext");
        assert_eq!(index.lines(), 5);
        assert_eq!(starts(&[vec![b'x'; LINE_MAX * 3 + 5], b"\nnext".to_vec()].concat()).len(), 5);
    }

    #[test]
    fn memory_is_bounded_and_marks_stay_right() {
        let mut index = Index::default();
        let chunk = b"0123456\n".repeat(4096);
        for _ in 0..5000 {
            index.feed(&chunk);
        }
        assert_eq!(index.lines(), 4096 * 5000);
        assert!(index.marks.len() <= MARKS_MAX);
        for line in [0, 1, 77_777, 4096 * 5000 - 1] {
            let mark = index.before(line);
            assert!(mark.line <= line && line - mark.line < index.stride, "{line}");
            assert_eq!(mark.offset, mark.line * 8);
            assert_eq!(index.before_offset(line * 8 + 3), mark);
        }
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter_and_both_ways_agree(
            lines in proptest::collection::vec(0usize..70_000, 0..6), cuts in proptest::collection::vec(0usize..200_000, 0..4)
        ) {
            let mut text = Vec::new();
            for length in lines {
                text.extend(std::iter::repeat_n(b'a', length));
                text.push(b'\n');
            }
            text.extend_from_slice(b"open");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % text.len()).collect();
            cuts.sort_unstable();
            let mut index = Index { stride: 1, ..Index::default() };
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                index.feed(&text[from..cut]);
                from = cut;
            }
            let marks: Vec<u64> = index.marks().iter().map(|m| m.offset).collect();
            prop_assert_eq!(&marks, &starts(&text));
            prop_assert_eq!(index.lines(), marks.len() as u64);
        }
    }
}
