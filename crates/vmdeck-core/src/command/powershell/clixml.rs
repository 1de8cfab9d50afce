//! Turns what PowerShell writes to a redirected standard error into plain text: after `#< CLIXML` it is XML with the errors in it
//! (MS-PSRP 2.2.5, the serialisation of objects), mixed with what other programs write there.

use memchr::memmem;

/// How the XML is announced, each time that a PowerShell begins to write.
const ANNOUNCED: &[u8] = b"#< CLIXML";
/// Most bytes of one element that are waited for; a longer one is passed on as it is.
const ELEMENT_MAX: usize = 1 << 20;

/// Reads one standard error, in pieces.
#[derive(Clone, Debug, Default)]
pub struct ClixmlDecoder {
    held: Vec<u8>,
    /// Whether the XML was announced.
    is_xml: bool,
}

/// What the next bytes are.
enum Next {
    /// So many bytes of plain text.
    Plain(usize),
    /// So many bytes that say nothing to a person.
    Silent(usize),
    /// An element of so many bytes, with this text.
    Text(usize, Vec<u8>),
    /// The bytes may be the beginning of something.
    Open,
}

impl ClixmlDecoder {
    /// Takes a piece; returns what of it is for a person.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.held.is_empty() && !self.is_xml && !bytes.contains(&b'#') {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        self.drain(false)
    }

    /// Returns what was held back, at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        self.drain(true)
    }

    fn drain(&mut self, is_end: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < self.held.len() {
            match next(&self.held[at..], self.is_xml) {
                Next::Plain(length) => {
                    out.extend_from_slice(&self.held[at..at + length]);
                    at += length;
                }
                Next::Silent(length) => {
                    self.is_xml |= self.held[at..].starts_with(ANNOUNCED);
                    at += length;
                }
                Next::Text(length, text) => {
                    out.extend(text);
                    at += length;
                }
                Next::Open if is_end || self.held.len() - at > ELEMENT_MAX => {
                    out.extend_from_slice(&self.held[at..]);
                    at = self.held.len();
                }
                Next::Open => break,
            }
        }
        self.held.drain(..at);
        out
    }
}

/// Returns what these bytes begin with.
fn next(bytes: &[u8], is_xml: bool) -> Next {
    let starts = |text: &[u8]| bytes.starts_with(text);
    let may_start = |text: &[u8]| bytes.len() < text.len() && text.starts_with(bytes);
    if starts(ANNOUNCED) {
        let line = &bytes[ANNOUNCED.len()..];
        return match line {
            [b'\r', b'\n', ..] => Next::Silent(ANNOUNCED.len() + 2),
            [b'\n', ..] => Next::Silent(ANNOUNCED.len() + 1),
            [] | [b'\r'] => Next::Open,
            _ => Next::Silent(ANNOUNCED.len()),
        };
    }
    if may_start(ANNOUNCED) {
        return Next::Open;
    }
    if is_xml {
        for (open, close) in
            [(&b"<Objs "[..], &b">"[..]), (b"</Objs>", b""), (b"<Obj ", b"</Obj>"), (b"<S S=\"", b"</S>")]
        {
            if may_start(open) {
                return Next::Open;
            }
            if !starts(open) {
                continue;
            }
            let length = if close.is_empty() {
                open.len()
            } else {
                match end_of(bytes, open, close) {
                    Some(length) => length,
                    None => return Next::Open,
                }
            };
            if open != b"<S S=\"" {
                return Next::Silent(length);
            }
            return match text_of(&bytes[..length]) {
                Some(text) => Next::Text(length, text),
                None => Next::Silent(length),
            };
        }
    }
    // Up to where something may begin, but past the byte that was looked at.
    let rest = &bytes[1..];
    Next::Plain(1 + memchr::memchr2(b'#', b'<', rest).unwrap_or(rest.len()))
}

/// Returns where an element ends that begins here; one of objects may hold others.
fn end_of(bytes: &[u8], open: &[u8], close: &[u8]) -> Option<usize> {
    let mut at = open.len();
    let mut depth = 1;
    loop {
        let end = at + memmem::find(&bytes[at..], close)?;
        if close == b"</Obj>" {
            depth += memmem::find_iter(&bytes[at..end], open).count();
        }
        depth -= 1;
        at = end + close.len();
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Returns the text of a string element, `<S S="Error">...</S>`, if it is one for people: errors, warnings and the like.
fn text_of(element: &[u8]) -> Option<Vec<u8>> {
    let element = std::str::from_utf8(element).ok()?;
    let (head, rest) = element.split_once('>')?;
    let text = rest.strip_suffix("</S>")?;
    let kind = head.split('"').nth(1)?;
    if kind.eq_ignore_ascii_case("progress") {
        return None;
    }
    let text = quick_xml::escape::unescape(text).ok()?;
    Some(unescape(&text).into_bytes())
}

/// Returns a text whose characters that XML cannot hold were written as `_xHHHH_`, each a unit of UTF-16.
fn unescape(text: &str) -> String {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("_x") {
        let code = rest.get(at + 2..at + 6).filter(|_| rest.as_bytes().get(at + 6) == Some(&b'_'));
        let code = code.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let (plain, after) = match code {
            Some(_) => (&rest[..at], at + 7),
            None => (&rest[..at + 2], at + 2),
        };
        units.extend(plain.encode_utf16());
        units.extend(code);
        rest = &rest[after..];
    }
    units.extend(rest.encode_utf16());
    String::from_utf16_lossy(&units).replace("\r\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(pieces: &[&[u8]]) -> String {
        let mut decoder = ClixmlDecoder::default();
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| decoder.feed(piece)).collect();
        out.extend(decoder.finish());
        String::from_utf8(out).expect("UTF-8")
    }

    // As Windows PowerShell 5.1 writes it.
    const REAL: &str = "#< CLIXML\r\n<Objs Version=\"1.1.0.1\" xmlns=\"http://schemas.microsoft.com/powershell/2004/04\">\
        <Obj S=\"progress\" RefId=\"0\"><TN RefId=\"0\"><T>System.Management.Automation.PSCustomObject</T></TN><MS>\
        <I64 N=\"SourceId\">1</I64><PR N=\"Record\"><AV>Preparing modules for first use.</AV></PR></MS></Obj>\
        <S S=\"Error\">Get-Item : Cannot find path 'C:\\&lt;x&gt;_x000D__x000A_</S><S S=\"Error\">At line:1 char:1_x000D__x000A_</S></Objs>";

    #[test]
    fn errors_become_text_and_progress_nothing() {
        assert_eq!(decoded(&[REAL.as_bytes()]), "Get-Item : Cannot find path 'C:\\<x>\nAt line:1 char:1\n");
    }

    #[test]
    fn what_other_programs_write_there_stays() {
        let mixed = format!("first\n{}native <b> & co\n", REAL.replace("</Objs>", "raw # text</Objs>"));
        assert_eq!(
            decoded(&[mixed.as_bytes()]),
            "first\nGet-Item : Cannot find path 'C:\\<x>\nAt line:1 char:1\nraw # textnative <b> & co\n"
        );
        for plain in ["", "no XML", "<S S=\"Error\">not announced</S>", "# a comment", "#< CLIX", "50 % <Objs "] {
            assert_eq!(decoded(&[plain.as_bytes()]), plain);
        }
    }

    #[test]
    fn escapes_are_units_of_utf_16() {
        assert_eq!(unescape("a_x000A_b_xD83D__xDE00_c_x5F_x_"), "a\nb\u{1F600}c_x5F_x_");
    }

    #[test]
    fn nothing_is_held_for_ever() {
        let mut decoder = ClixmlDecoder::default();
        let mut out = decoder.feed(b"#< CLIXML\r\n<Obj ").len();
        for _ in 0..40 {
            out += decoder.feed(&vec![b'x'; 64 * 1024]).len();
            assert!(decoder.held.len() <= ELEMENT_MAX + 64 * 1024);
        }
        assert!(out > ELEMENT_MAX);
    }

    proptest! {
        #[test]
        fn no_border_changes_anything(cuts in prop::collection::vec(0..1000usize, 0..6)) {
            let bytes = REAL.as_bytes();
            let mut at: Vec<usize> = cuts.into_iter().map(|cut| cut % bytes.len()).chain([0, bytes.len()]).collect();
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decoded(&pieces), decoded(&[bytes]));
        }

        #[test]
        fn nothing_makes_it_panic(text in "(#< CLIXML\r\n)?(<S S=\"Error\">|</S>|<Obj |</Obj>|_x00|[a-z<#]){0,12}") {
            let _ = decoded(&[text.as_bytes()]);
        }
    }
}
