//! Bytes from a guest, and the only way to make them safe for a terminal, a CI log, XML or a path.
//!
//! Attacks that this withstands: escape sequences (also cut in two by a chunk border), title and clipboard writes,
//! bidirectional overrides, combining-mark bombs, lines without an end. Secrets are not this module's matter.

/// The longest line that is kept, in bytes; the rest of the line is dropped and the cut is marked.
pub const LINE_MAX: usize = 8 * 1024;
/// The mark at the end of a line that was cut.
pub const CUT_MARK: &str = " […cut]";
/// Most combining marks that one character may carry.
const MARKS_MAX: usize = 8;

/// A line without control characters: safe to print, to put into XML and to store.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Clean(String);

impl Clean {
    /// Cleans a whole text at once; line ends become blanks.
    pub fn from_text(text: &str) -> Self {
        let mut lines = LineSplitter::default();
        let mut out = Vec::new();
        lines.feed(text.as_bytes(), |line| out.push(line.0));
        lines.finish(|line| out.push(line.0));
        Self(out.join(" "))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Returns the words of a guest or a tool on one clean line: what is blank is left out, the rest is joined with `; `.
pub fn one_line(words: &str) -> String {
    let lines = words.lines().map(|line| Clean::from_text(line.trim()).into_string());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

impl std::fmt::Display for Clean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// The state of the escape-sequence parser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EscapeState {
    #[default]
    Ground,
    /// The parser is after ESC.
    Escape,
    /// The parser is in `ESC [ …`, until a final byte.
    Csi,
    /// The parser is in OSC, DCS, APC, PM or SOS, until BEL or ESC \.
    Text,
    /// The parser is after ESC within such a text.
    TextEscape,
}

/// Tells the text of a stream from its escape sequences, byte by byte.
#[derive(Clone, Debug, Default)]
pub struct EscapeFilter {
    state: EscapeState,
    /// Length of the current sequence: an endless one must not eat the stream.
    length: usize,
}

impl EscapeFilter {
    /// Returns whether the next byte is text. A newline always is: a guest must not hide the lines that follow.
    pub fn is_text(&mut self, byte: u8) -> bool {
        if self.state != EscapeState::Ground {
            self.length += 1;
            if byte != b'\n' && self.length <= SEQUENCE_MAX {
                self.state = after(self.state, byte);
                return false;
            }
            self.state = EscapeState::Ground;
        }
        if byte == 0x1b {
            (self.state, self.length) = (EscapeState::Escape, 0);
            return false;
        }
        true
    }
}

/// Returns a line without its escape sequences, and otherwise as it is.
pub fn without_escapes(line: &[u8]) -> Vec<u8> {
    let mut filter = EscapeFilter::default();
    line.iter().copied().filter(|byte| filter.is_text(*byte)).collect()
}

/// Splits hostile bytes into clean lines, piece by piece and in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct LineSplitter {
    escapes: EscapeFilter,
    line: Vec<u8>,
    /// Whether bytes of the current line were dropped, since it is too long.
    dropped: bool,
    /// Whether a carriage return was seen and the line continues: what follows overwrites it.
    returned: bool,
}

/// Longest escape sequence that is swallowed whole, in bytes.
const SEQUENCE_MAX: usize = 4096;

impl LineSplitter {
    /// Feeds a chunk; `each` is called with every line that ended in it.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Clean)) {
        for &byte in bytes {
            self.byte(byte, &mut each);
        }
    }

    /// Ends the stream; `each` is called with a last line that has no newline.
    pub fn finish(&mut self, mut each: impl FnMut(Clean)) {
        if !self.line.is_empty() || self.dropped {
            self.end_line(&mut each);
        }
        *self = Self::default();
    }

    fn byte(&mut self, byte: u8, each: &mut impl FnMut(Clean)) {
        if !self.escapes.is_text(byte) {
            return;
        }
        match byte {
            b'\n' => self.end_line(each),
            b'\r' => self.returned = true,
            b'\t' => self.push(b"    "),
            0x08 => {
                self.line.pop();
            }
            0..0x20 | 0x7f => {}
            _ => self.push(&[byte]),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        // A lone carriage return overwrites the line, as a progress bar does.
        if std::mem::take(&mut self.returned) {
            self.line.clear();
            self.dropped = false;
        }
        if self.line.len() + bytes.len() > LINE_MAX {
            self.dropped = true;
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, each: &mut impl FnMut(Clean)) {
        self.returned = false;
        let mut text = visible(&String::from_utf8_lossy(&self.line));
        if std::mem::take(&mut self.dropped) {
            text.push_str(CUT_MARK);
        }
        self.line.clear();
        each(Clean(text));
    }
}

fn after(state: EscapeState, byte: u8) -> EscapeState {
    match (state, byte) {
        (EscapeState::Escape, b'[') => EscapeState::Csi,
        (EscapeState::Escape, b']' | b'P' | b'X' | b'^' | b'_') => EscapeState::Text,
        (EscapeState::Escape, 0x20..=0x2f) => EscapeState::Escape,
        (EscapeState::Csi, 0x40..=0x7e) | (EscapeState::Text, 0x07) | (EscapeState::TextEscape, b'\\') => {
            EscapeState::Ground
        }
        (EscapeState::Csi, _) => EscapeState::Csi,
        (EscapeState::Text | EscapeState::TextEscape, 0x1b) => EscapeState::TextEscape,
        (EscapeState::Text | EscapeState::TextEscape, _) => EscapeState::Text,
        _ => EscapeState::Ground,
    }
}

/// Makes what would move, hide or reorder text visible as `U+XXXX`, and drops what XML 1.0 cannot hold.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut marks = 0;
    for c in text.chars() {
        if is_mark(c) {
            marks += 1;
            if marks <= MARKS_MAX {
                out.push(c);
            }
            continue;
        }
        marks = 0;
        match c {
            '\u{80}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {}
            c if is_deceptive(c) => out.push_str(&format!("<U+{:04X}>", u32::from(c))),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Returns whether a character moves, hides or reorders the text around it.
pub fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}'
        | '\u{61c}' | '\u{180e}' | '\u{e0000}'..='\u{e007f}')
}

fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{fe20}'..='\u{fe2f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let mut splitter = LineSplitter::default();
        let mut out = Vec::new();
        for part in parts {
            splitter.feed(part, |l| out.push(l.into_string()));
        }
        splitter.finish(|l| out.push(l.into_string()));
        out
    }

    #[test]
    fn attacks_leave_no_residue_wherever_they_are_cut() {
        let hostile = b"a\x1b]52;c;ZXZpbA==\x07b\x1b]0;title\x1b\\c\x1b[2Jd\x1bPq\x1b\\e\x1b[31mred\x1b[0m\x9b1m\n";
        for at in 0..hostile.len() {
            let got = lines(&[&hostile[..at], &hostile[at..]]);
            assert_eq!(got, ["abcdered\u{fffd}1m"], "cut at {at}");
        }
    }

    #[test]
    fn an_unfinished_sequence_does_not_hide_the_next_line() {
        assert_eq!(lines(&[b"\x1b]0;never ends\nFAILED\n"]), ["", "FAILED"]);
    }

    #[test]
    fn carriage_return_overwrites_and_crlf_does_not() {
        assert_eq!(lines(&[b"10%\r20%\rdone\r\n", b"x\r", b"\ny"]), ["done", "x", "y"]);
    }

    #[test]
    fn endless_lines_and_mark_bombs_are_bounded() {
        let long = vec![b'x'; 5_000_000];
        let got = lines(&[&long, b"\nnext\n"]);
        assert_eq!((got[0].len(), got[1].as_str()), (LINE_MAX + CUT_MARK.len(), "next"));
        let bomb = format!("a{}\n", "\u{301}".repeat(4000));
        assert_eq!(lines(&[bomb.as_bytes()])[0].chars().count(), 1 + MARKS_MAX);
    }

    #[test]
    fn bidi_and_zero_width_become_visible() {
        assert_eq!(lines(&["a\u{202e}b\u{200b}c".as_bytes()]), ["a<U+202E>b<U+200B>c"]);
    }

    proptest! {
        #[test]
        fn nothing_but_printable_text_comes_out_and_chunks_do_not_matter(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400
        ) {
            let at = cut.min(bytes.len());
            let whole = lines(&[&bytes]);
            prop_assert_eq!(&whole, &lines(&[&bytes[..at], &bytes[at..]]));
            for line in &whole {
                prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
            }
        }
    }
}
