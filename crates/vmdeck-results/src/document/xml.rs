//! XML of a tool, read element by element. Nothing is expanded or fetched, and a document type is refused.
//!
//! Tools write what XML forbids: control characters, text around the root, other encodings than they name; all of that is read.

use super::{catch2::Catch2, junit::Junit, nunit::Nunit, trx::Trx};
use crate::{
    format::{Format, of_root},
    sheet::Sheet,
};
use encoding_rs::{Encoding, UTF_8};
use encoding_rs_io::DecodeReaderBytesBuilder;
use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use std::io::{BufRead, BufReader};

/// Most elements one in another.
const DEPTH: usize = 64;
/// Most attributes of an element.
const ATTRIBUTES: usize = 64;
/// Most bytes of text that are kept of one element.
const TEXT: usize = 64 * 1024;

/// An element as it begins.
#[derive(Default)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
}

impl Element {
    fn of(start: &BytesStart<'_>) -> Self {
        let name = start.local_name().as_ref().to_owned();
        let mut attributes = start.html_attributes();
        let attributes = attributes.with_checks(false).flatten().take(ATTRIBUTES);
        let pair = |attribute: quick_xml::events::attributes::Attribute<'_>| {
            (attribute.key.local_name().as_ref().to_owned(), unescape(&attribute.value))
        };
        Self { name, attributes: attributes.map(pair).collect() }
    }

    /// Returns the value of an attribute; `None` = it has none, or an empty one.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.trim().is_empty())
    }
}

/// Takes the elements of one format.
pub(super) trait Handler {
    fn open(&mut self, element: &Element, sheet: &mut Sheet);

    /// Takes text of the innermost element.
    fn text(&mut self, text: &str);

    fn close(&mut self, name: &str, sheet: &mut Sheet);

    /// Returns the name of the test in which the document is cut.
    fn inside(&self) -> Option<String>;

    /// Ends the document, cut or not.
    fn end(&mut self, sheet: &mut Sheet);
}

/// Text that is kept up to a limit.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn push(&mut self, text: &str) {
        let room = TEXT.saturating_sub(self.0.len());
        let end = (0..=text.len().min(room)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.0.push_str(&text[..end]);
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// Reads a document; its root tells the format. An error says that it holds no test results.
pub(super) fn read(input: &mut impl BufRead, wanted: Option<Format>, sheet: &mut Sheet) -> Result<(), String> {
    let encoding = input.fill_buf().ok().and_then(declared).unwrap_or(UTF_8);
    let text = DecodeReaderBytesBuilder::new().encoding(Some(encoding)).bom_override(true).build(input);
    let mut reader = Reader::from_reader(BufReader::new(text));
    reader.config_mut().allow_dangling_amp = true;
    let mut handler: Option<Box<dyn Handler>> = None;
    let (mut depth, mut buffer) = (0usize, Vec::new());
    let complaint = loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer) {
            Ok(Event::DocType(_)) => {
                sheet.summary().lacks("a document type is refused: nothing in it is expanded or fetched");
                return Ok(());
            }
            Ok(event @ (Event::Start(_) | Event::Empty(_))) => {
                let (Event::Start(start) | Event::Empty(start)) = &event else { continue };
                let element = Element::of(start);
                if handler.is_none() {
                    handler = Some(handler_of(&element.name, wanted)?);
                }
                if depth >= DEPTH {
                    break Some(format!("more than {DEPTH} elements are one in another"));
                }
                if let Some(handler) = &mut handler {
                    handler.open(&element, sheet);
                    if matches!(event, Event::Empty(_)) {
                        handler.close(&element.name, sheet);
                    } else {
                        depth += 1;
                    }
                }
                if depth == 0 {
                    break None;
                }
            }
            Ok(Event::End(end)) => {
                depth = depth.saturating_sub(1);
                if let Some(handler) = &mut handler {
                    handler.close(end.local_name().as_ref(), sheet);
                }
                if depth == 0 && handler.is_some() {
                    break None;
                }
            }
            Ok(Event::Text(text)) => {
                if let Some(handler) = &mut handler {
                    handler.text(&text);
                }
            }
            Ok(Event::CData(text)) => {
                if let Some(handler) = &mut handler {
                    handler.text(&text);
                }
            }
            Ok(Event::GeneralRef(name)) => {
                if let Some(handler) = &mut handler {
                    handler.text(&resolve(&name.into_inner()));
                }
            }
            Ok(Event::Eof) => break Some("it is cut off".to_owned()),
            Ok(_) => {}
            Err(e) => break Some(format!("it is cut off or broken: {}", crate::words::message(&e.to_string()))),
        }
    };
    let Some(mut handler) = handler else { return Err("it holds no test results".to_owned()) };
    if let Some(why) = complaint {
        let inside = handler.inside().map(|name| format!(" inside `{name}`")).unwrap_or_default();
        sheet.summary().lacks(format!("{why}{inside}"));
    } else {
        sheet.summary().is_recognized = true;
    }
    handler.end(sheet);
    Ok(())
}

fn handler_of(root: &str, wanted: Option<Format>) -> Result<Box<dyn Handler>, String> {
    let known = of_root(root);
    if let (Some(wanted), Some(known)) = (wanted, known)
        && wanted != known
    {
        return Err(format!("it is {}, and not {}", known.word(), wanted.word()));
    }
    match known {
        Some(Format::Junit) => Ok(Box::new(Junit::default())),
        Some(Format::Trx) => Ok(Box::new(Trx::default())),
        Some(Format::Nunit) => Ok(Box::new(Nunit::default())),
        Some(Format::Catch2) => Ok(Box::new(Catch2::default())),
        _ => Err(format!("its root `{}` is none of test results", crate::words::name(root))),
    }
}

/// Returns the encoding that a document says of itself.
fn declared(head: &[u8]) -> Option<&'static Encoding> {
    let head = &head[..head.len().min(256)];
    let from = memchr::memmem::find(head, b"encoding=")? + "encoding=".len();
    let quote = *head.get(from)?;
    let rest = head.get(from + 1..)?;
    let end = memchr::memchr(quote, rest)?;
    Encoding::for_label(&rest[..end])
}

/// Returns the text of an attribute.
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let is_name =
            |name: &str| name.len() <= 10 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'#');
        match after.split_once(';').filter(|(name, _)| is_name(name)) {
            Some((name, after)) => {
                out.push_str(&resolve(name));
                rest = after;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Returns what a reference stands for: one of the five that need no document type, or a character.
fn resolve(name: &str) -> String {
    let number = match name.strip_prefix('#') {
        Some(digits) => match digits.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        },
        None => None,
    };
    match name {
        "lt" => "<".to_owned(),
        "gt" => ">".to_owned(),
        "amp" => "&".to_owned(),
        "quot" => "\"".to_owned(),
        "apos" => "'".to_owned(),
        _ if name.starts_with('#') => number.and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(),
        _ => format!("&{name};"),
    }
}

/// Returns the whole name of a test: the name alone where there is no class, or where it begins with that already.
pub(super) fn full_name(class: Option<&str>, name: &str) -> (String, String) {
    let Some(class) = class else { return (String::new(), name.to_owned()) };
    let rest = name.strip_prefix(class);
    let has_it = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '.', ':', '/', '>', '#', '(']));
    if has_it { (String::new(), name.to_owned()) } else { (class.to_owned(), name.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_nothing_is_expanded() {
        assert_eq!(
            unescape("a &lt;b&gt; &amp;&quot;&apos; &#65;&#x42; &foo; & &#0;&#xD800;"),
            "a <b> &\"' AB &foo; & \0\u{fffd}"
        );
    }

    #[test]
    fn a_class_is_not_said_twice() {
        for (class, name, want) in [
            (Some("s"), "steady", ("s", "steady")),
            (Some("s"), "s / xpass", ("", "s / xpass")),
            (Some("calc adds"), "calc adds", ("", "calc adds")),
            (None, "deep", ("", "deep")),
        ] {
            assert_eq!(full_name(class, name), (want.0.to_owned(), want.1.to_owned()));
        }
    }
}
