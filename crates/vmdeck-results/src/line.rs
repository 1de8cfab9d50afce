//! Bytes cut into lines, in bounded memory.

/// Most bytes of a line; the rest of it is dropped.
const LINE: usize = 64 * 1024;

/// A line of a tool, without its line end.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The text without escape sequences; bytes that are no text are replaced.
    pub(crate) text: String,
    /// Whether the stream ended within it.
    pub(crate) is_cut: bool,
}

impl Line {
    fn new(bytes: &[u8], is_cut: bool) -> Self {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = if memchr::memchr(0x1b, bytes).is_some() {
            String::from_utf8_lossy(&vmdeck_model::text::without_escapes(bytes)).into_owned()
        } else {
            String::from_utf8_lossy(bytes).into_owned()
        };
        Self { text, is_cut }
    }
}

/// Cuts a stream into lines.
#[derive(Default)]
pub(crate) struct LineBuffer {
    rest: Vec<u8>,
}

impl LineBuffer {
    /// Takes a piece; `each` is called with every line that ended in it, and the bytes of the line with its line end.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Line, &[u8])) {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let piece = &bytes[from..=end];
            if self.rest.is_empty() {
                let text = &piece[..piece.len() - 1];
                each(Line::new(&text[..text.len().min(LINE)], false), piece);
            } else {
                self.keep(&piece[..piece.len() - 1]);
                let mut whole = std::mem::take(&mut self.rest);
                let line = Line::new(&whole, false);
                whole.push(b'\n');
                each(line, &whole);
            }
            from = end + 1;
        }
        self.keep(&bytes[from..]);
    }

    /// Ends the stream; returns the last line if it has no line end.
    pub(crate) fn finish(&mut self) -> Option<(Line, Vec<u8>)> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| (Line::new(&rest, true), rest))
    }

    /// Returns how many bytes have come of a line that has not ended.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Returns what has come of a line that has not ended, as if that were all of it.
    pub(crate) fn so_far(&self) -> Line {
        Line::new(&self.rest, false)
    }

    /// Returns what has come of a line that has not ended, and forgets it.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE.saturating_sub(self.rest.len());
        self.rest.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<(String, bool)> {
        let (mut lines, mut out) = (LineBuffer::default(), Vec::new());
        for piece in pieces {
            lines.feed(piece, |line, _| out.push((line.text, line.is_cut)));
        }
        out.extend(lines.finish().map(|(line, _)| (line.text, line.is_cut)));
        out
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        let text = b"one\r\n\x1b[32mtwo\x1b[0m\n\nbad \xff\nrest";
        let want = [("one", false), ("two", false), ("", false), ("bad \u{fffd}", false), ("rest", true)];
        let want: Vec<(String, bool)> = want.map(|(text, cut)| (text.to_owned(), cut)).to_vec();
        assert_eq!(lines(&[text]), want);
        let pieces: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&pieces), want);
    }

    #[test]
    fn an_endless_line_is_cut_in_memory_alone() {
        let long = vec![b'x'; 3 * LINE];
        assert_eq!(lines(&[&long, b"\nok\n"]).iter().map(|(text, _)| text.len()).collect::<Vec<_>>(), [LINE, 2]);
    }
}
