//! Looks for a pattern in the lines of a stream as they were written: no masking, no cleaning, no cut.
//!
//! What is shown to people is another matter, and `command_log`'s.

use vmdeck_model::{pattern::Pattern, text::without_escapes};

/// Longest line that is matched as a whole, in bytes; a longer one is matched window by window.
const WINDOW: usize = 32 << 20;
/// Longest line without an end in which a prompt is looked for.
const PROMPT: usize = 4096;
/// What stays of a window, so that a match over its border is found.
const OVERLAP: usize = 1 << 20;

/// One stream and what is wanted in it.
#[derive(Debug)]
pub(super) struct LineMatch {
    wanted: Pattern,
    line: Vec<u8>,
    /// Whether the beginning of the line was dropped.
    cut: bool,
    matched: bool,
}

impl LineMatch {
    pub(super) fn new(wanted: Pattern) -> Self {
        Self { matched: false, wanted, line: Vec::new(), cut: false }
    }

    /// Returns what is looked for, as it was written.
    pub(super) fn pattern(&self) -> &str {
        self.wanted.source()
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.matched {
                return;
            }
            if let Some(rest) = piece.strip_suffix(b"\n") {
                self.line.extend_from_slice(rest);
                self.end_line();
                continue;
            }
            for part in piece.chunks(WINDOW - OVERLAP) {
                if self.line.len() + part.len() > WINDOW {
                    self.look(true);
                    self.line.drain(..self.line.len().saturating_sub(OVERLAP));
                    self.cut = true;
                }
                self.line.extend_from_slice(part);
            }
        }
    }

    /// Returns whether it was found so far; a line that has not ended yet counts, as long as it is short.
    pub(super) fn is_found(&mut self) -> bool {
        if !self.line.is_empty() && self.line.len() <= PROMPT {
            self.look(true);
        }
        self.matched
    }

    /// Returns whether it was found; a last line without a newline counts too.
    pub(super) fn finish(&mut self) -> bool {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.matched
    }

    fn end_line(&mut self) {
        self.look(false);
        self.line.clear();
        self.cut = false;
    }

    fn look(&mut self, is_open: bool) {
        if self.matched {
            return;
        }
        let pattern = &self.wanted;
        let start = usize::from(self.cut);
        let found = |line: &[u8]| pattern.is_match_at(line, start.min(line.len()), is_open);
        // As it was written; and as a person reads it, without colours and without the carriage return of a line end.
        let bare = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        self.matched = found(&self.line)
            || (bare.len() < self.line.len() && found(bare))
            || (memchr::memchr(0x1b, bare).is_some() && found(&without_escapes(bare)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(pattern: &str, pieces: &[&[u8]]) -> bool {
        let mut lines = LineMatch::new(Pattern::parse(pattern).expect("pattern"));
        for piece in pieces {
            lines.feed(piece);
        }
        lines.finish()
    }

    #[test]
    fn what_was_written_is_what_is_matched() {
        let long = [&vec![b'x'; 100_000][..], b"end"].concat();
        let rows: [(&str, &[u8], bool); 15] = [
            ("/a\\tb/", b"a\tb\n", true),
            ("/^x{100000}end$/", &long, true),
            ("/^first/", b"first\rsecond\n", true),
            ("/^second/", b"first\rsecond\n", false),
            ("/^ok$/", b"ok\r\n", true),
            ("/^ok\\r$/", b"ok\r\n", true),
            ("/^ok$/", b"no\r\n", false),
            ("/^ok$/", b"\x1b[32mno\x1b[0m\r\n", false),
            ("/^ok$/", b"\x1b[32mok\x1b[0m\n", true),
            ("/\\x1b\\[32m/", b"\x1b[32mok\n", true),
            ("a\u{200d}b", "a\u{200d}b".as_bytes(), true),
            ("/(?-u)^\\xff\\xfe$/", b"\xff\xfe\n", true),
            ("/^a b$/", b"a\nb\n", false),
            ("/^$/", b"x\n\ny", true),
            ("/^$/", b"x\ny", false),
        ];
        for (pattern, bytes, want) in rows {
            assert_eq!(found(pattern, &[bytes]), want, "{pattern}");
        }
    }

    #[test]
    fn an_endless_line_is_searched_in_bounded_memory() {
        let mut lines = LineMatch::new(Pattern::parse("/needle|^y|x$/").expect("pattern"));
        for byte in [b'x', b'y', b'y'] {
            lines.feed(&vec![byte; WINDOW - 3]);
            assert!(!lines.matched && lines.line.len() <= WINDOW);
        }
        lines.feed(b"need");
        lines.feed(b"le");
        assert!(lines.finish());
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_what_is_found(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(0x1b), Just(b'a'), any::<u8>()], 0..80),
            cuts in proptest::collection::vec(0usize..80, 0..6)
        ) {
            for pattern in ["/^a/", "/a$/", "/^$/", "/a.?a/"] {
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
                cuts.sort_unstable();
                let (mut pieces, mut from) = (Vec::new(), 0);
                for cut in cuts.into_iter().chain([bytes.len()]) {
                    pieces.push(&bytes[from..cut]);
                    from = cut;
                }
                prop_assert_eq!(found(pattern, &pieces), found(pattern, &[&bytes]));
            }
        }
    }
}
